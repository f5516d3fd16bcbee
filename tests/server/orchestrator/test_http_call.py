"""How one call over HTTP is read."""

from __future__ import annotations

import pytest

from server.orchestrator.http_call import HttpError, parse_head


def test_only_parts_of_an_update_may_be_large() -> None:
    line = b"POST /v1/fleet/%s HTTP/1.1\r\ncontent-length: 1000000"
    assert parse_head(line % b"push-object", 2_000_000).size == 1_000_000
    with pytest.raises(HttpError, match="More than 65536 bytes"):
        parse_head(line % b"get-run", 2_000_000)
    with pytest.raises(HttpError, match="More than 1000 bytes"):
        parse_head(line % b"push-object", 1000)
