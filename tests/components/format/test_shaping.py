from components.format.shaping import with_shuffled_tools, without_first_turn, without_tools


def tool(name):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": {}}}


def said(role, content="x"):
    return {"role": role, "content": content}


def names(record):
    return [one["function"]["name"] for one in record["tools"]]


def test_a_turn_goes_with_all_that_belongs_to_it_and_the_system_message_stays():
    messages = [
        said("system"),
        said("user", "1"),
        said("assistant"),
        said("tool"),
        said("assistant"),
        said("user", "2"),
        said("assistant"),
    ]
    shorter = without_first_turn({"id": "a", "messages": messages})
    assert shorter == {"id": "a", "messages": [messages[0], *messages[5:]]}
    assert without_first_turn(shorter) is None


def test_rows_of_one_group_share_an_order_and_the_groups_differ():
    tools = [tool(name) for name in "abcdefgh"]
    rows = [{"id": number, "tools": tools} for number in range(12)] + [{"id": 12, "tools": tools[:3]}]
    shuffled = list(with_shuffled_tools(rows, 4, seed=0))
    orders = [names(row) for row in shuffled[:12]]
    assert all(len({tuple(order) for order in orders[start : start + 4]}) == 1 for start in (0, 4, 8))
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list("abcdefgh") for order in orders) and sorted(names(shuffled[12])) == ["a", "b", "c"]
    assert [row["id"] for row in shuffled] == list(range(13)) and names(rows[0]) == list("abcdefgh")
    assert shuffled == list(with_shuffled_tools(rows, 4, seed=0)) != list(with_shuffled_tools(rows, 4, seed=1))


def test_hidden_tools_are_not_shown():
    assert names(without_tools({"tools": [tool("a"), tool("b")]}, {"a"})) == ["b"]
