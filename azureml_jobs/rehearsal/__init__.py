"""A loopback cloud: what the Azure clients talk to in a rehearsal, on 127.0.0.1 and nowhere else.

The program under test keeps Azure's real host names and its default cloud. Only environment variables differ:
a proxy that answers CONNECT for a fixed list of names leads them here, and refuses every other host.

    certificates  a CA for one rehearsal          arm        resources of Azure ML workspaces
    proxy         host names -> local ports       data_plane run history, logs, outputs, artefacts
    tokens        who signs a request             mlflow     the tracking API, on MLflow's own store
    access        who may touch what              vaults     Key Vault secrets
    journal       what was asked and refused      blobs      Azurite behind the table of who may
    azurite       install and start Azurite       executor   runs each job's command as a process
    cloud         starts all of it and stops it
"""
