"""What is said about a caller's Flower, as Flower itself says and reads it."""

from __future__ import annotations

import pytest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.runtime_version_compatibility import (
    RuntimeVersionMetadata,
    get_runtime_version_incompatibility_exit_message,
)

from strategies.wire.release import (
    INCOMPATIBLE,
    UNKNOWN,
    refusal,
    release_headers,
    release_of,
    why_refused,
)

OURS = RuntimeVersionMetadata.from_local_component("SuperNode")


def test_a_call_says_it_in_flowers_headers() -> None:
    assert release_headers("SuperNode") == OURS.append_to_grpc_metadata(None)
    theirs, malformed = RuntimeVersionMetadata.from_grpc_metadata(release_headers("SuperNode"))
    assert theirs == OURS and malformed is None


def test_flowers_own_headers_are_read() -> None:
    assert release_of(OURS.append_to_grpc_metadata((("x", "y"),))) == OURS.package_version
    assert release_of((("x", "y"),)) is None


@pytest.mark.parametrize(
    "headers",
    [
        [("flwr-package-version", "1.42.0")],
        [*release_headers("SuperNode"), ("flwr-package-version", "1.39.0")],
        [*release_headers("SuperNode")[1:], ("flwr-package-name", "another")],
        [*release_headers("SuperNode")[1:], ("flwr-package-version", "1.39.0")],
    ],
)
def test_half_or_twice_or_of_another_package_is_no_release(headers: list[tuple[str, str]]) -> None:
    assert release_of(headers) == UNKNOWN


def test_a_refusal_is_read_by_flower_and_by_us() -> None:
    assert int(ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE) == INCOMPATIBLE
    said = get_runtime_version_incompatibility_exit_message(refusal("MDW-753: because"))
    assert said is not None and "MDW-753: because" in said
    assert why_refused(refusal("MDW-753: because")) == "Another version of Flower. MDW-753: because"


@pytest.mark.parametrize(
    "details", ["", "text", "[1]", '{"code": 7}', "null", "1001", "{", "[" * 100_000]
)
def test_any_other_answer_is_no_such_refusal(details: str) -> None:
    assert why_refused(details) is None
