"""Who changes a module finds its tests: at the same place under tests/, or where this page says."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("conf", "strategies", "client", "server", "azureml_jobs")
TESTED_ELSEWHERE = {
    "conf/schema/": "tests/conf/test_validate.py",
    "conf/errors.py": "tests/test_errors_page.py",
    "client/node/trusted_cas.py": "tests/security/test_ca_rotation.py",
    "conf/foreign.py": "tests/security/test_foreign_files.py",
    "conf/flower_version.py": "tests/faults/test_flower_version.py",
    "conf/config_groups.py": "tests/conf/test_compose.py",
    "conf/hydra_errors.py": "tests/conf/test_compose.py",
    "conf/overrides.py": "tests/conf/test_compose.py",
    "conf/fields.py": "tests/conf/test_key_list.py",
    "strategies/__init__.py": "tests/strategies/test_build.py",
    "strategies/compression/__init__.py": "tests/strategies/compression/test_codec.py",
    "strategies/fedprox.py": "tests/strategies/test_fedavg.py",
    "strategies/median.py": "tests/strategies/test_robust_rules.py",
    "strategies/trimmed_mean.py": "tests/strategies/test_robust_rules.py",
    "strategies/krum.py": "tests/strategies/test_robust_rules.py",
    "strategies/krum_scores.py": "tests/strategies/test_robust_rules.py",
    "strategies/multikrum.py": "tests/strategies/test_robust_rules.py",
    "strategies/bulyan.py": "tests/strategies/test_robust_rules.py",
    "strategies/geometric_median.py": "tests/strategies/test_robust_rules.py",
    "strategies/centered_clipping.py": "tests/strategies/test_robust_rules.py",
    "conf/combination_axes.py": "tests/conf/test_combinations.py",
    "conf/combination_rules.py": "tests/conf/test_combinations.py",
    "strategies/combined.py": "tests/strategies/test_robust_rules.py",
    "strategies/held_updates.py": "tests/strategies/test_cohort_rule.py",
    "strategies/chunks.py": "tests/strategies/test_ordered_mean.py",
    "strategies/metric_means.py": "tests/strategies/test_average.py",
    "strategies/streaming.py": "tests/server/round/test_rounds.py",
    "strategies/wire/fleet_calls.py": "tests/faults/test_flower_version.py",
    "strategies/wire/headers.py": "tests/server/orchestrator/test_fleet.py",
    "client/evaluating.py": "tests/client/test_loop.py",
    "client/silo_round.py": "tests/client/test_app.py",
    "client/models/": "tests/client/models/test_models.py",
    "client/tasks/kinds/in_memory.py": "tests/client/tasks/kinds/test_arrays.py",
    "client/tasks/": "tests/client/tasks/test_tasks.py",
    "client/node/arrivals.py": "tests/client/node/test_transfers.py",
    "client/node/pace.py": "tests/client/node/test_transfers.py",
    "client/node/channel.py": "tests/client/node/test_node.py",
    "client/node/connection.py": "tests/client/node/test_node.py",
    "client/node/job.py": "tests/client/node/test_node.py",
    "client/node/journal.py": "tests/client/node/test_node.py",
    "client/node/relayed_server.py": "tests/azureml_jobs/relay/test_bridge.py",
    "server/orchestrator/relayed_silos.py": "tests/azureml_jobs/relay/test_bridge.py",
    "azureml_jobs/relay/carrying.py": "tests/azureml_jobs/relay/test_relay.py",
    "azureml_jobs/relay/control_frames.py": "tests/azureml_jobs/relay/test_relay.py",
    "azureml_jobs/relay/own_relay.py": "tests/azureml_jobs/relay/test_relay.py",
    "azureml_jobs/jobs/relay_overrides.py": "tests/azureml_jobs/jobs/test_specification.py",
    "client/node/memory_limit.py": "tests/client/node/test_training_process.py",
    "client/node/training_child.py": "tests/client/node/test_training_process.py",
    "client/node/training_frames.py": "tests/client/node/test_training_process.py",
    "server/app.py": "tests/integration/test_simulate.py",
    "server/simulation.py": "tests/integration/test_simulate.py",
    "server/engines/worker.py": "tests/server/engines/test_pool.py",
    "server/engines/calls.py": "tests/server/engines/test_pool.py",
    "server/engines/silo_context.py": "tests/server/engines/test_pool.py",
    "server/engines/quiet.py": "tests/server/engines/test_ray_engine.py",
    "server/engines/ray_access.py": "tests/server/engines/test_ray_engine.py",
    "server/engines/ray_grid.py": "tests/server/engines/test_ray_engine.py",
    "server/engines/ray_simulation.py": "tests/server/engines/test_ray_engine.py",
    "server/observers/base.py": "tests/server/test_session.py",
    "server/observers/model_registry.py": "tests/server/observers/test_tracking.py",
    "server/observers/summary.py": "tests/server/observers/test_progress.py",
    "server/orchestrator/caretaker.py": "tests/server/orchestrator/test_caretaker_expiry.py",
    "server/orchestrator/deliveries.py": "tests/server/orchestrator/test_instructions.py",
    "server/orchestrator/orchestrator_grid.py": "tests/server/orchestrator/test_fleet.py",
    "server/orchestrator/identity.py": "tests/security/test_identity.py",
    "server/orchestrator/challenges.py": "tests/security/test_call_signature.py",
    "server/orchestrator/own_calls.py": "tests/security/test_call_signature.py",
    "azureml_jobs/identity/call_signature.py": "tests/security/test_call_signature.py",
    "client/node/call_signer.py": "tests/security/test_call_signature.py",
    "server/orchestrator/refused.py": "tests/server/orchestrator/test_fleet.py",
    "server/orchestrator/interceptor.py": "tests/security/test_handshake.py",
    "server/orchestrator/refusals.py": "tests/security/test_identity.py",
    "server/export/": "tests/server/export/test_export.py",
    "server/report/privacy_plots.py": "tests/server/report/test_spent_privacy.py",
    "server/report/decision_plots.py": "tests/server/report/test_decisions.py",
    "server/scoring/outcome.py": "tests/server/scoring/test_operating_point.py",
    "server/report/comparison_page.py": "tests/server/report/test_run_comparison.py",
    "server/report/comparison_plots.py": "tests/server/report/test_run_comparison.py",
    "server/report/comparison_template.py": "tests/server/report/test_run_comparison.py",
    "server/report/stylesheet.py": "tests/server/report/test_build.py",
    "server/report/page.py": "tests/server/report/test_build.py",
    "server/report/plots.py": "tests/server/report/test_build.py",
    "server/report/tables.py": "tests/server/report/test_overview.py",
    "server/round/aggregation.py": "tests/security/test_one_silos_fault.py",
    "server/round/array_layout.py": "tests/server/round/test_admission.py",
    "server/round/sent_model.py": "tests/server/engines/test_measuring.py",
    "server/round/gate.py": "tests/security/test_one_silos_fault.py",
    "server/round/measure.py": "tests/server/round/test_admission.py",
    "server/round/reply_numbers.py": "tests/server/round/test_admission.py",
    "server/round/reply_sums.py": "tests/server/round/test_admission.py",
    "server/round/updates.py": "tests/server/round/test_rounds.py",
    "server/round/judgement.py": "tests/server/round/test_admission.py",
    "server/round/imagined_grid.py": "tests/server/round/test_dry_aggregation.py",
    "server/round/silo_grid.py": "tests/server/round/test_exchange.py",
    "server/round/means.py": "tests/server/round/test_rounds.py",
    "server/round/train_phase.py": "tests/server/round/test_rounds.py",
    "server/round/phase.py": "tests/server/round/test_end_of_run.py",
    "server/round/replies.py": "tests/server/round/test_rounds.py",
    "server/run/absence.py": "tests/server/round/test_lateness.py",
    "server/run/movement.py": "tests/server/round/test_influence.py",
    "server/run/chain.py": "tests/server/run/test_ledger.py",
    "server/run/verdict.py": "tests/server/run/test_ledger.py",
    "conf/schema/lifetimes.py": "tests/conf/test_key_list.py",
    "server/run/proofs.py": "tests/security/test_ledger_attacks.py",
    "server/run/silo_record.py": "tests/server/run/test_audit.py",
    "strategies/wire/receipts.py": "tests/client/node/test_witness.py",
    "azureml_jobs/cli/reader.py": "tests/azureml_jobs/cli/test_main.py",
    "azureml_jobs/storage/lease_wait.py": "tests/azureml_jobs/storage/test_lease.py",
    "server/run/files.py": "tests/conf/files/test_whole.py",
    "server/run/finished.py": "tests/integration/test_simulate.py",
    "server/run/run_folder.py": "tests/integration/test_simulate.py",
    "server/scoring/": "tests/integration/test_simulate.py",
    "azureml_jobs/storage/base.py": "tests/azureml_jobs/storage/test_folder_store.py",
    "azureml_jobs/storage/blob_store.py": "tests/azure/test_blob_store.py",
    "server/store/layout.py": "tests/golden/test_golden.py",
    "azureml_jobs/shadowed.py": "tests/test_meadow.py",
    "azureml_jobs/backends/outside_code.py": "tests/conf/targets/test_bundle.py",
    "azureml_jobs/backends/running_settings.py": "tests/azureml_jobs/backends/test_local.py",
    "azureml_jobs/backends/workspace.py": "tests/azure/test_workspace.py",
    "server/run/beginning.py": "tests/server/test_session.py",
    "azureml_jobs/cli/": "tests/azureml_jobs/cli/test_main.py",
    "azureml_jobs/identity/key_vault.py": "tests/azure/test_vault.py",
    "azureml_jobs/jobs/snapshot.py": "tests/azureml_jobs/jobs/test_specification.py",
    "azureml_jobs/preflight/data.py": "tests/azure/test_workspace.py",
    "server/observers/mlflow_writer.py": "tests/server/observers/test_tracking.py",
    "azureml_jobs/backends/job_files.py": "tests/azureml_jobs/backends/test_local_jobs.py",
    "azureml_jobs/backends/supervisor.py": "tests/azureml_jobs/backends/test_local_jobs.py",
    "azureml_jobs/backends/base.py": "tests/azureml_jobs/backends/test_local.py",
    "azureml_jobs/backends/paths.py": "tests/azureml_jobs/backends/test_local.py",
    "azureml_jobs/identity/admitted_key.py": "tests/server/store/test_admitted_keys.py",
    "azureml_jobs/rehearsal/rehearse.py": "tests/azure/test_rehearsal.py",
    "azureml_jobs/rehearsal/followed.py": "tests/azure/test_rehearsal.py",
    "azureml_jobs/rehearsal/owners.py": "tests/azure/test_rehearsal.py",
    "azureml_jobs/rehearsal/relayed.py": "tests/azure/test_three_tenants.py",
    "azureml_jobs/rehearsal/": "tests/azure/test_cloud.py",
}
"""A module, or a folder of them that are tested together, and the file with its tests."""
LOADED_BY_NAME = (
    "client/models/__init__.py",
    "client/tasks/__init__.py",
    "azureml_jobs/cli/verbs.py",
)
"""Registries: who imports one reaches every module beside it."""


def modules() -> list[str]:
    """Return the modules of the five packages that define anything, as paths from the root."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.name != "__init__.py" or defines_something(path):
                found.append(path.relative_to(ROOT).as_posix())
    return found


def defines_something(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


def mirror(module: str) -> Path:
    """Return where the tests of a module belong: server/round/rounds.py, tests/server/round/test_rounds.py."""
    path = Path(module)
    name = path.parent.name if path.name == "__init__.py" else path.stem
    return ROOT / "tests" / path.parent / f"test_{name}.py"


def elsewhere(module: str) -> str | None:
    """Return the test file that the table names for a module, or for its folder."""
    return TESTED_ELSEWHERE.get(module) or TESTED_ELSEWHERE.get(f"{Path(module).parent}/")


@cache
def imported_by(file: str) -> frozenset[str]:
    """Return the files of the five packages that a file imports, lazily too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        for name in names_in(node):
            for path in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
                if name.split(".")[0] in ROOMS and (ROOT / path).is_file():
                    found.add(path)
    for registry in found & set(LOADED_BY_NAME):
        beside = (ROOT / registry).parent.glob("*.py")
        found |= {path.relative_to(ROOT).as_posix() for path in beside}
    return frozenset(found)


def names_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A module that is imported by its name, or run: `python -m server.serve`.
        return [node.value]
    return []


def reaches(test: str, module: str) -> bool:
    """Whether a test imports a module: itself, or one step away, or through the module's own folder."""
    folder = Path(module).parent
    direct = imported_by(test)
    seen = set(direct)
    waiting = list(direct)
    while waiting:
        current = waiting.pop()
        if current in direct or Path(current).parent == folder:
            new = imported_by(current) - seen
            seen |= new
            waiting += new
    return module in seen


@pytest.mark.parametrize("module", modules())
def test_each_module_has_tests_of_its_name_or_the_table_says_where(module: str) -> None:
    test = elsewhere(module)
    if mirror(module).is_file():
        assert module not in TESTED_ELSEWHERE, f"{module} has tests of its name: strike the entry"
        return
    assert test is not None, (
        f"write {mirror(module).relative_to(ROOT)}, or name the tests of {module}"
    )
    assert reaches(test, module), f"{test} does not import {module}"


@pytest.mark.parametrize("entry", sorted(TESTED_ELSEWHERE))
def test_the_table_names_what_is_there(entry: str) -> None:
    assert (ROOT / entry).exists()
    assert (ROOT / TESTED_ELSEWHERE[entry]).is_file()


SHARED_NAMES = {"__init__.py", "app.py", "base.py", "federation.py", "table.py", "images.py"}
"""`app.py` is Flower's word, `base.py` a room's contract; a federation is configured in `conf` and
acted on in `azureml_jobs/cli`, where tables are printed and
images are built; the tasks of these names are named by their files."""


def test_no_two_modules_of_one_name_hold_different_things() -> None:
    files: dict[str, list[str]] = {}
    for module in modules():
        files.setdefault(Path(module).name, []).append(module)
    shared = {name: where for name, where in files.items() if len(where) > 1}
    assert not {name: where for name, where in shared.items() if name not in SHARED_NAMES}


def test_the_map_says_of_nothing_twice_where_it_is() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    subjects = Counter(row.split("|")[1].strip() for row in rows)
    assert not [subject for subject, times in subjects.items() if times > 1]
