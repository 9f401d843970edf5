from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import NAMES, Tab, find, tab


@pytest.fixture(scope="session")
def chromium() -> Iterator[Tab]:
    path = find()
    if path is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is on the PATH")
    with tab(path) as found:
        yield found
