"""What will end is announced beforehand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from azureml_jobs.expiry import expiry_warning

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.mark.parametrize(
    ("life", "left", "said"),
    [
        (365, 31, None), (365, 30, "30 days"), (365, 8, "30 days"), (365, 7, "7 days"), (365, 1, "a day"),
        (365, 0, "expired on"), (14, 13.9, None), (14, 7.5, None), (15, 7, "7 days"), (14, 1, "a day"),
    ],
)  # fmt: skip
def test_expiry_is_announced_30_7_and_1_days_before(life: float, left: float, said: str | None) -> None:
    ends = NOW + timedelta(days=left)
    warning = expiry_warning("The key", ends - timedelta(days=life), ends, NOW)
    assert warning is None if said is None else warning is not None and said in warning
