"""MLflow's tracking API as an Azure ML workspace offers it, on MLflow's own store.

A job's name is its run id, experiments belong to a workspace, and what is not in the list below is answered 404: the
real service offers a part of MLflow too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.protos import service_pb2 as api
from mlflow.store.tracking import sqlalchemy_store
from mlflow.utils import proto_json_utils
from starlette.responses import Response

Message = Any  # protobuf's generated classes
mlflow: Any = entities  # MLflow leaves the functions of these three modules unannotated
stores: Any = sqlalchemy_store
forms: Any = proto_json_utils
_BETWEEN: Final = " in "


class MlflowTracking:
    """The runs of all workspaces in one sqlite file; raises MlflowException for what MLflow refuses."""

    def __init__(self, folder: Path, host: str) -> None:
        self._host, self._lock = host, threading.Lock()
        self._store: Any = stores.SqlAlchemyStore(
            f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artefacts")
        )
        self._runs: dict[str, str] = {}  # a run's id as clients know it -> MLflow's own
        self._names: dict[str, str] = {}  # and back

    def start_run(
        self, workspace: str, experiment: str, name: str, title: str, tags: dict[str, str]
    ) -> str:
        """Begin the run of a job, under the job's name, and return its experiment's id."""
        with self._lock:
            experiment_id: str = self._experiment(workspace, experiment)
            entries = [mlflow.RunTag(key, value) for key, value in tags.items()]
            run = self._store.create_run(experiment_id, "", _milliseconds(), entries, title)
            self._known(run.info.run_id, name)
        return experiment_id

    def end_run(self, name: str, status: str) -> None:
        """Set a run's status: FINISHED, FAILED or KILLED."""
        number = mlflow.RunStatus.from_string(status)
        self._store.update_run_info(self._runs[name], number, _milliseconds(), None)

    def answer(self, workspace: str, verb: str, body: dict[str, Any]) -> Response | None:
        """Return the answer to one call, such as `runs/get`; None where the verb is not offered."""
        if verb not in _VERBS:
            return None
        kind, act = _VERBS[verb]
        return responded(kind(), body, lambda request: act(self, workspace, request))

    # ---- the verbs

    def create_experiment(self, workspace: str, request: Message) -> Message:
        """See MLflow's REST API, like the verbs below."""
        return api.CreateExperiment.Response(
            experiment_id=self._experiment(workspace, request.name)
        )

    def get_experiment(self, workspace: str, request: Message) -> Message:
        """`experiments/get`."""
        found = self._store.get_experiment(request.experiment_id)
        return api.GetExperiment.Response(experiment=self._shown_experiment(found))

    def get_experiment_by_name(self, workspace: str, request: Message) -> Message:
        """`experiments/get-by-name`."""
        found = self._store.get_experiment_by_name(_inner(workspace, request.experiment_name))
        if found is None:
            why = f"Could not find experiment with name '{request.experiment_name}'"
            raise MlflowException(why, error_code=5)  # RESOURCE_DOES_NOT_EXIST
        return api.GetExperimentByName.Response(experiment=self._shown_experiment(found))

    def search_experiments(self, workspace: str, request: Message) -> Message:
        """`experiments/search`: those of this workspace, whatever the filter."""
        mine = [
            one
            for one in self._store.search_experiments()
            if one.name.endswith(_inner(workspace, ""))
        ]
        return api.SearchExperiments.Response(
            experiments=[self._shown_experiment(one) for one in mine]
        )

    def create_run(self, workspace: str, request: Message) -> Message:
        """`runs/create`."""
        tags = [mlflow.RunTag.from_proto(tag) for tag in request.tags]
        when = request.start_time or _milliseconds()
        run = self._store.create_run(
            request.experiment_id, request.user_id, when, tags, request.run_name
        )
        self._known(run.info.run_id, run.info.run_id)
        return api.CreateRun.Response(run=self._shown(workspace, run))

    def get_run(self, workspace: str, request: Message) -> Message:
        """`runs/get`."""
        run = self._store.get_run(self._own(request))
        return api.GetRun.Response(run=self._shown(workspace, run))

    def update_run(self, workspace: str, request: Message) -> Message:
        """`runs/update`."""
        status = request.status if request.HasField("status") else None
        end = request.end_time if request.HasField("end_time") else None
        info = self._store.update_run_info(
            self._own(request), status, end, request.run_name or None
        )
        run = self._store.get_run(info.run_id)
        return api.UpdateRun.Response(run_info=self._shown(workspace, run).info)

    def search_runs(self, workspace: str, request: Message) -> Message:
        """`runs/search`, in the experiments of this workspace alone."""
        mine = [
            e
            for e in request.experiment_ids
            if self._store.get_experiment(e).name.endswith(_inner(workspace, ""))
        ]
        page = self._store.search_runs(
            mine,
            request.filter,
            mlflow.ViewType.ACTIVE_ONLY,
            request.max_results or 100,
            list(request.order_by),
            None,
        )
        return api.SearchRuns.Response(runs=[self._shown(workspace, run) for run in page])

    def log_batch(self, workspace: str, request: Message) -> Message:
        """`runs/log-batch`."""
        metrics = [mlflow.Metric.from_proto(metric) for metric in request.metrics]
        params = [mlflow.Param.from_proto(param) for param in request.params]
        tags = [mlflow.RunTag.from_proto(tag) for tag in request.tags]
        self._store.log_batch(self._own(request), metrics, params, tags)
        return api.LogBatch.Response()

    def log_metric(self, workspace: str, request: Message) -> Message:
        """`runs/log-metric`."""
        metric = mlflow.Metric(request.key, request.value, request.timestamp, request.step)
        self._store.log_metric(self._own(request), metric)
        return api.LogMetric.Response()

    def log_param(self, workspace: str, request: Message) -> Message:
        """`runs/log-parameter`."""
        self._store.log_param(self._own(request), mlflow.Param(request.key, request.value))
        return api.LogParam.Response()

    def set_tag(self, workspace: str, request: Message) -> Message:
        """`runs/set-tag`."""
        self._store.set_tag(self._own(request), mlflow.RunTag(request.key, request.value))
        return api.SetTag.Response()

    def metric_history(self, workspace: str, request: Message) -> Message:
        """`metrics/get-history`."""
        found = self._store.get_metric_history(self._own(request), request.metric_key)
        return api.GetMetricHistory.Response(metrics=[metric.to_proto() for metric in found])

    # ---- names inside and outside

    def _experiment(self, workspace: str, name: str) -> str:
        inner = _inner(workspace, name)
        found = self._store.get_experiment_by_name(inner)
        return str(found.experiment_id if found else self._store.create_experiment(inner))

    def _known(self, own: str, name: str) -> None:
        self._runs[name], self._names[own] = own, name

    def _own(self, request: Message) -> str:
        name: str = request.run_id or request.run_uuid
        return self._runs.get(name, name)

    def _shown_experiment(self, experiment: Any) -> Message:
        shown = experiment.to_proto()
        shown.name = shown.name.partition(_BETWEEN)[0]
        return shown

    def _shown(self, workspace: str, run: Any) -> Message:
        """Return a run as the service shows it: the job's name as id, artefacts at the workspace."""
        shown: Any = run.to_proto()
        name = self._names.get(run.info.run_id, run.info.run_id)
        shown.info.run_id = shown.info.run_uuid = name
        experiment = shown.info.experiment_id
        place = f"azureml://{self._host}/mlflow/v2.0{workspace}/experiments/{experiment}/runs/{name}/artifacts"
        shown.info.artifact_uri = place
        return shown


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


def responded(
    request: Message, body: dict[str, Any], act: Callable[[Message], Message]
) -> Response:
    """Return the answer to a request of MLflow's: what `act` makes of it, or what is wrong in MLflow's own words."""
    forms.parse_dict(body, request)
    try:
        answer = act(request)
    except MlflowException as error:
        wrong: Any = error
        return Response(
            wrong.serialize_as_json(), wrong.get_http_status_code(), media_type="application/json"
        )
    return Response(forms.message_to_json(answer), media_type="application/json")


def _inner(workspace: str, experiment: str) -> str:
    return f"{experiment}{_BETWEEN}{workspace.lower()}"


def _milliseconds() -> int:
    return int(time.time() * 1000)
