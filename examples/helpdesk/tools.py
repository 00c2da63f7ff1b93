"""The tools of the Larkfield company assistant.

Calltune reads the signatures and docstrings and makes JSON Schema of them; the bodies are never run in training. They are
stand-ins for the systems behind them: `evaluate.execution` runs them, and searches documents/ for `search_knowledge_base`.
Two tools overlap on purpose: which search is right is company policy. What Larkfield decides, owns or runs is in the
knowledge base; what the rest of the world decides is on the web.
"""

from typing import Literal

_DETAILS = ("email", "phone", "manager", "office")
_STAFF = {
    "Helena Brandt": ("h.brandt@larkfield.example", "4402", "Aoife Nolan", "Utrecht U-3.02"),
    "Ingrid Solberg": ("i.solberg@larkfield.example", "4519", "Helena Brandt", "Leeds L-0.07"),
    "Marit Dekker": ("m.dekker@larkfield.example", "4471", "Helena Brandt", "Utrecht U-2.11"),
    "Tomás Ferreira": ("t.ferreira@larkfield.example", "4630", "Helena Brandt", "Porto P-1.04"),
}
_ROOMS = {"Lock": 4, "Canal": 8, "Harbour": 16}
"""Seats of each meeting room, the smallest first."""


def search_knowledge_base(query: str, department: Literal["hr", "it", "finance", "legal", "facilities"] | None = None) -> str:
    """Search Larkfield's internal policies, handbooks and how-to guides.

    Args:
        query: What to look for.
        department: The department that owns the answer.
    """
    raise NotImplementedError("connect your document search here")


def search_web(query: str, recency: Literal["day", "week", "month"] | None = None) -> str:
    """Search the public internet.

    Args:
        query: What to look for.
        recency: Only results this fresh.
    """
    return f"1. {query}: an overview, https://encyclopedia.example/ 2. {query}: news, https://news.example/"


def create_ticket(
    summary: str,
    category: Literal["hardware", "software", "access", "facilities"],
    priority: Literal["low", "high", "urgent"] | None = None,
) -> str:
    """Open a service desk ticket for something broken or something needed.

    Args:
        summary: The problem in one line.
        category: Who must act.
        priority: Only if the user says how urgent it is.
    """
    number = 48_000 + sum(map(ord, summary)) % 1_000
    return f"Ticket SD-{number} is open: {summary} ({category}, priority {priority or 'normal'})"


def find_employee(name: str, detail: Literal["email", "phone", "manager", "office"] | None = None) -> str:
    """Look up a colleague in the staff directory.

    Args:
        name: The colleague's name.
        detail: The one detail asked for.
    """
    found = [one for one in _STAFF if name.lower() in one.lower()]
    if len(found) != 1:
        return f"{len(found)} colleagues are called {name}" + (f": {', '.join(found)}" if found else "")
    known = dict(zip(_DETAILS, _STAFF[found[0]], strict=True))
    return f"{found[0]}: " + ", ".join(f"{key} {known[key]}" for key in ([detail] if detail else known))


def book_room(day: str, start: str, minutes: int | None = None, people: int | None = None) -> str:
    """Book a meeting room.

    Args:
        day: The day as the user said it.
        start: Start time, 24-hour HH:MM.
        minutes: How long, in minutes.
        people: How many people.
    """
    hours, _, rest = start.partition(":")
    if not (hours.isdigit() and rest.isdigit() and int(hours) < 24 and int(rest) < 60):
        raise ValueError(f"start must be HH:MM, not {start}")
    fitting = [room for room, seats in _ROOMS.items() if seats >= (people or 1)]
    return f"Booked {fitting[0]}, {day} {start}, {minutes or 60} minutes" if fitting else f"There is no room for {people} people"
