"""Cron as everybody writes it, five fields, and as Kubeflow Pipelines wants it, six with the seconds first.

KFP takes five fields without a word and means something else by them.
"""

import re
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

from calltune.errors import ConfigError

EXAMPLE = '"0 3 * * 1" is each Monday at 3 o\'clock'
FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_NAMES = {3: "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", 4: "sun|mon|tue|wed|thu|fri|sat"}


def six_fields(cron: str) -> str:
    """Five fields as KFP's six.

    Raises:
        ConfigError: they are not five, or hold what KFP does not know.
    """
    fields = cron.split()
    if cron.strip().startswith("@"):
        raise ConfigError(f"--cron {cron!r}: write five fields: {EXAMPLE}")
    if len(fields) == 6:
        raise ConfigError(
            f"--cron {cron!r}: has six fields; five are wanted, without the seconds, which Calltune adds: {EXAMPLE}"
        )
    if len(fields) != 5:
        raise ConfigError(f"--cron {cron!r}: has {len(fields)} of five fields ({', '.join(FIELDS)}): {EXAMPLE}")
    for number, (name, field) in enumerate(zip(FIELDS, fields, strict=True)):
        one = rf"(\d+|{_NAMES[number]})" if number in _NAMES else r"\d+"
        term = rf"(\*|{one}(-{one})?)(/\d+)?"
        if not re.fullmatch(rf"{term}(,{term})*", field, re.IGNORECASE):
            raise ConfigError(
                f"--cron {cron!r}: {field!r} is no {name}: numbers, *, ranges 1-5, lists 1,3 and steps */2 are: {EXAMPLE}"
            )
    # KFP counts weekdays from 0, Sunday, to 6 only.
    if re.search(r"(?<![\d/])7(?!\d)", fields[4]):
        raise ConfigError(f"--cron {cron!r}: day of the week 7: Sunday is 0 in KFP: {EXAMPLE}")
    # KFP goes on from there to 6, Saturday, and others to 7, which is Sunday again.
    step = re.search(r"(?:^|,)(\w+)(/\d+)", fields[4])
    if step:
        raise ConfigError(f"--cron {cron!r}: {step[0].strip(',')!r} does not say where it ends: {step[1]}-6{step[2]} does")
    next_times(cron, "UTC")
    return " ".join(["0", *fields])


def next_times(cron: str, zone: str, count: int = 3) -> list[datetime]:
    """The next times of a cron expression, in a time zone.

    Raises:
        ConfigError: a field is out of its range, or there is no such day.
    """
    from cronsim import CronSim, CronSimError

    try:
        times = list(islice(CronSim(cron, datetime.now(ZoneInfo(zone))), count))
    except CronSimError as error:
        raise ConfigError(f"--cron {cron!r}: {str(error).lower()}: {EXAMPLE}") from None
    if not times:
        raise ConfigError(f"--cron {cron!r}: no such day comes: {EXAMPLE}")
    return times
