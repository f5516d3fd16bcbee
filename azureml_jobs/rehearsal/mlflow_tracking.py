"""MLflow's tracking API as an Azure ML workspace offers it, on MLflow's own store.

A job's name is its run id, and an experiment belongs to a workspace. Like the real service, this
one offers only a part of MLflow's verbs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.protos import service_pb2 as api
from mlflow.store.tracking import sqlalchemy_store
from mlflow.utils import proto_json_utils
from sqlalchemy import event
from sqlalchemy.engine import Engine
from starlette.responses import Response

Message = Any
"""One of protobuf's generated classes."""
# MLflow's functions in these three modules have no annotations.
mlflow: Any = entities
stores: Any = sqlalchemy_store
json_utils: Any = proto_json_utils
_SEPARATOR: Final = " in "
_RESOURCE_DOES_NOT_EXIST: Final = 5


@contextmanager
def _not_synced(file: Path) -> Iterator[None]:
    """Have connections to this file that are opened in the block not wait for the disk.

    MLflow makes its tables in a hundred steps, and what is in them ends with the rehearsal.
    """

    def opened(connection: Any, record: object) -> None:
        if Path(connection.execute("PRAGMA database_list").fetchone()[2]) == file.resolve():
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", opened)
    try:
        yield
    finally:
        event.remove(Engine, "connect", opened)


class MlflowTracking:
    """The runs of all workspaces in one sqlite file; raises MlflowException as MLflow does.

    `_own_ids` holds MLflow's own id of a run by its name outside, and `_names` the reverse.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        # That tables are made is no news.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with _not_synced(folder / "mlflow.db"):
            self._store: Any = stores.SqlAlchemyStore(
                f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artefacts")
            )
        self._own_ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def start_run(
        self, workspace: str, experiment: str, name: str, title: str, tags: dict[str, str]
    ) -> str:
        """Start the run of a job, under the job's name, and return its experiment's id."""
        with self._lock:
            experiment_id: str = self._experiment(workspace, experiment)
            entries = [mlflow.RunTag(key, value) for key, value in tags.items()]
            run = self._store.create_run(experiment_id, "", _milliseconds(), entries, title)
            self._rename(run.info.run_id, name)
        return experiment_id

    def end_run(self, name: str, status: str) -> None:
        """Set a run's status: FINISHED, FAILED or KILLED."""
        code = mlflow.RunStatus.from_string(status)
        self._store.update_run_info(self._own_ids[name], code, _milliseconds(), None)

    def answer(self, workspace: str, verb: str, body: dict[str, Any]) -> Response | None:
        """Return the answer to one call, such as `runs/get`; None where the verb is not offered."""
        if verb not in _VERBS:
            return None
        make_request, act = _VERBS[verb]
        return respond(make_request(), body, lambda request: act(self, workspace, request))

    # ---- the verbs

    def create_experiment(self, workspace: str, request: Message) -> Message:
        """See MLflow's REST API, like the verbs below."""
        return api.CreateExperiment.Response(
            experiment_id=self._experiment(workspace, request.name)
        )

    def get_experiment(self, workspace: str, request: Message) -> Message:
        """`experiments/get`."""
        experiment = self._store.get_experiment(request.experiment_id)
        return api.GetExperiment.Response(experiment=_experiment_message(experiment))

    def get_experiment_by_name(self, workspace: str, request: Message) -> Message:
        """`experiments/get-by-name`."""
        name = _stored_name(workspace, request.experiment_name)
        experiment = self._store.get_experiment_by_name(name)
        if experiment is None:
            message = f"Could not find experiment with name '{request.experiment_name}'"
            raise MlflowException(message, error_code=_RESOURCE_DOES_NOT_EXIST)
        return api.GetExperimentByName.Response(experiment=_experiment_message(experiment))

    def search_experiments(self, workspace: str, request: Message) -> Message:
        """`experiments/search`: those of this workspace, whatever the filter."""
        suffix = _stored_name(workspace, "")
        messages = []
        for experiment in self._store.search_experiments():
            if experiment.name.endswith(suffix):
                messages.append(_experiment_message(experiment))
        return api.SearchExperiments.Response(experiments=messages)

    def create_run(self, workspace: str, request: Message) -> Message:
        """`runs/create`."""
        tags = [mlflow.RunTag.from_proto(tag) for tag in request.tags]
        when = request.start_time or _milliseconds()
        run = self._store.create_run(
            request.experiment_id, request.user_id, when, tags, request.run_name
        )
        # Without a job there is no other name: outside the run has MLflow's own id.
        self._rename(run.info.run_id, run.info.run_id)
        return api.CreateRun.Response(run=self._run_message(workspace, run))

    def get_run(self, workspace: str, request: Message) -> Message:
        """`runs/get`."""
        run = self._store.get_run(self._own_id(request))
        return api.GetRun.Response(run=self._run_message(workspace, run))

    def update_run(self, workspace: str, request: Message) -> Message:
        """`runs/update`."""
        status = request.status if request.HasField("status") else None
        end = request.end_time if request.HasField("end_time") else None
        info = self._store.update_run_info(
            self._own_id(request), status, end, request.run_name or None
        )
        run = self._store.get_run(info.run_id)
        return api.UpdateRun.Response(run_info=self._run_message(workspace, run).info)

    def search_runs(self, workspace: str, request: Message) -> Message:
        """`runs/search`, only in the experiments of this workspace."""
        suffix = _stored_name(workspace, "")
        experiments = []
        for experiment_id in request.experiment_ids:
            if self._store.get_experiment(experiment_id).name.endswith(suffix):
                experiments.append(experiment_id)
        runs = self._store.search_runs(
            experiments,
            request.filter,
            mlflow.ViewType.ACTIVE_ONLY,
            request.max_results or 100,
            list(request.order_by),
            None,
        )
        messages = [self._run_message(workspace, run) for run in runs]
        return api.SearchRuns.Response(runs=messages)

    def log_batch(self, workspace: str, request: Message) -> Message:
        """`runs/log-batch`."""
        metrics = [mlflow.Metric.from_proto(metric) for metric in request.metrics]
        params = [mlflow.Param.from_proto(param) for param in request.params]
        tags = [mlflow.RunTag.from_proto(tag) for tag in request.tags]
        self._store.log_batch(self._own_id(request), metrics, params, tags)
        return api.LogBatch.Response()

    def log_metric(self, workspace: str, request: Message) -> Message:
        """`runs/log-metric`."""
        metric = mlflow.Metric(request.key, request.value, request.timestamp, request.step)
        self._store.log_metric(self._own_id(request), metric)
        return api.LogMetric.Response()

    def log_param(self, workspace: str, request: Message) -> Message:
        """`runs/log-parameter`."""
        self._store.log_param(self._own_id(request), mlflow.Param(request.key, request.value))
        return api.LogParam.Response()

    def set_tag(self, workspace: str, request: Message) -> Message:
        """`runs/set-tag`."""
        self._store.set_tag(self._own_id(request), mlflow.RunTag(request.key, request.value))
        return api.SetTag.Response()

    def metric_history(self, workspace: str, request: Message) -> Message:
        """`metrics/get-history`."""
        history = self._store.get_metric_history(self._own_id(request), request.metric_key)
        return api.GetMetricHistory.Response(metrics=[metric.to_proto() for metric in history])

    # ---- names inside and outside

    def _experiment(self, workspace: str, name: str) -> str:
        """Return an experiment's id, created where it was missing."""
        stored_name = _stored_name(workspace, name)
        experiment = self._store.get_experiment_by_name(stored_name)
        if experiment is None:
            return str(self._store.create_experiment(stored_name))
        return str(experiment.experiment_id)

    def _rename(self, own_id: str, name: str) -> None:
        self._own_ids[name] = own_id
        self._names[own_id] = name

    def _own_id(self, request: Message) -> str:
        name: str = request.run_id or request.run_uuid
        return self._own_ids.get(name, name)

    def _run_message(self, workspace: str, run: Any) -> Message:
        """Return a run as the service shows it: job's name as id, artefacts at the workspace."""
        message: Any = run.to_proto()
        name = self._names.get(run.info.run_id, run.info.run_id)
        message.info.run_id = name
        message.info.run_uuid = name
        message.info.artifact_uri = (
            f"azureml://{self._host}/mlflow/v2.0{workspace}"
            f"/experiments/{message.info.experiment_id}/runs/{name}/artifacts"
        )
        return message


Verb = Callable[[MlflowTracking, str, Message], Message]
_VERBS: Final[dict[str, tuple[Callable[[], Message], Verb]]] = {
    "experiments/create": (api.CreateExperiment, MlflowTracking.create_experiment),
    "experiments/search": (api.SearchExperiments, MlflowTracking.search_experiments),
    "experiments/get": (api.GetExperiment, MlflowTracking.get_experiment),
    "experiments/get-by-name": (api.GetExperimentByName, MlflowTracking.get_experiment_by_name),
    "runs/create": (api.CreateRun, MlflowTracking.create_run),
    "runs/get": (api.GetRun, MlflowTracking.get_run),
    "runs/update": (api.UpdateRun, MlflowTracking.update_run),
    "runs/search": (api.SearchRuns, MlflowTracking.search_runs),
    "runs/log-batch": (api.LogBatch, MlflowTracking.log_batch),
    "runs/log-metric": (api.LogMetric, MlflowTracking.log_metric),
    "runs/log-parameter": (api.LogParam, MlflowTracking.log_param),
    "runs/set-tag": (api.SetTag, MlflowTracking.set_tag),
    "metrics/get-history": (api.GetMetricHistory, MlflowTracking.metric_history),
}


def respond(request: Message, body: dict[str, Any], act: Callable[[Message], Message]) -> Response:
    """Return the answer of `act` to a request of MLflow's client, or MLflow's own error."""
    json_utils.parse_dict(body, request)
    try:
        answer = act(request)
    except MlflowException as error:
        # MLflow leaves these two methods without annotations.
        failed: Any = error
        content = failed.serialize_as_json()
        return Response(content, failed.get_http_status_code(), media_type="application/json")
    return Response(json_utils.message_to_json(answer), media_type="application/json")


def _stored_name(workspace: str, experiment: str) -> str:
    """Return the name of a workspace's experiment in the one store of all workspaces."""
    return f"{experiment}{_SEPARATOR}{workspace.lower()}"


def _experiment_message(experiment: Any) -> Message:
    message = experiment.to_proto()
    message.name = message.name.partition(_SEPARATOR)[0]
    return message


def _milliseconds() -> int:
    return int(time.time() * 1000)
