"""What counts as standing in an answer."""

import pytest

from components.evaluate.suites.execution.contains import contains


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("You have 25  Days of leave.", "25 days"),
        ("Twenty-five DAYS\nof leave", "days of leave"),
        ("It costs €42.", "42"),
        ("It costs 42.", "42"),
        ("**25 days**, as ever", "25 days"),
        ("By 1,500 euros, or 1.500 in other countries", "1,500"),
        ("15 minutes; not 5 minutes", "5 minutes"),
        ("Take form F-7!", "f-7"),
        ("有給休暇は25日です", "25日"),
        ("有給休暇は25日です", "有給"),
        ("VPNを使う", "vpn"),
        ("ลาได้ 25 วันต่อปี", "25 วัน"),
        ("연차는 25일입니다", "25일"),
        ("مدة يوم واحد", "يوم"),
        ("60 %", "60"),
        ("60%", "60"),
        ("Fine: 25\u00a0km", "25 km"),
        ("Straße", "STRASSE"),
    ],
)
def test_case_and_spaces_do_not_count(answer, wanted):
    assert contains(answer, wanted)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("You have 25 days.", "5 days"),
        ("You have 25 days.", "2"),
        ("It takes 2.5 hours.", "5 hours"),
        ("It takes 2.5 hours.", "2"),
        ("It is 1,200 euros.", "200 euros"),
        ("It is 1,200 euros.", "1"),
        ("Only holidays count.", "days"),
        ("We are open daily.", "day"),
        ("يومان", "يوم"),
        ("דלתות", "דלת"),
        ("शुक्रवार को", "शुक्र"),
        ("", "x"),
        ("no", "nothing at all"),
    ],
)
def test_a_part_of_a_word_or_of_a_number_does_not_count(answer, wanted):
    assert not contains(answer, wanted)
