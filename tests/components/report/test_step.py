"""What the report says of where it was written."""

from components.report.step import LIBRARIES, versions


def test_the_image_of_report_need_not_have_the_libraries_that_train():
    found = versions((*LIBRARIES, "no-such-library"))
    assert "no-such-library" not in found and found["calltune"] == "0.1.0"
