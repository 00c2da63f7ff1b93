"""Files beside the data: named by their content."""

import os

import pytest

from calltune import input_files
from calltune.errors import DataError


def test_a_name_that_is_not_in_utf8_is_one_clear_line(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("open from 9")
    with pytest.raises(DataError, match=r"the name of a file in it is not in UTF-8: b'.*caf\\xe9.md'$"):
        input_files.content("evaluate.execution.documents", str(tmp_path))
