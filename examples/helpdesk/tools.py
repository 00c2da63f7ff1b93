"""The tools of the Larkfield company assistant.

Calltune reads the signatures and docstrings and makes JSON Schema of them; the bodies are never run in training.
Two tools overlap on purpose: which search is right is company policy. What Larkfield decides, owns or runs is in the
knowledge base; what the rest of the world decides is on the web.
"""

from typing import Literal


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
    raise NotImplementedError("connect your web search here")


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
    raise NotImplementedError("connect your service desk here")


def find_employee(name: str, detail: Literal["email", "phone", "manager", "office"] | None = None) -> str:
    """Look up a colleague in the staff directory.

    Args:
        name: The colleague's name.
        detail: The one detail asked for.
    """
    raise NotImplementedError("connect your staff directory here")


def book_room(day: str, start: str, minutes: int | None = None, people: int | None = None) -> str:
    """Book a meeting room.

    Args:
        day: The day as the user said it.
        start: Start time, 24-hour HH:MM.
        minutes: How long, in minutes.
        people: How many people.
    """
    raise NotImplementedError("connect your room calendar here")
