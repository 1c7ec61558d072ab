"""The rules of the package's scenes, by number: what their code, and the code around them, makes of the same completions.

Every change of behaviour, one by which an old log would replay otherwise though its prompts are the same, gets the next number and a line
in `CHANGES`. A run keeps the number that it was begun under. A scene that knows older rules asks `scene.rules`, and plays by them; once it
does not any more, `OLDEST` is raised, and logs of before are refused with the lines of what changed.

Scenes of one's own go by another name once they play otherwise: the name is part of what is hashed.
"""

from matrix_py.errors import FormatError

# Number of rules -> what is otherwise since then.
CHANGES: dict[int, str] = {}

RULES = max(CHANGES, default=1)
OLDEST = 1


def check_rules(number: int) -> None:
    """Refuse rules that this version does not play by.

    Raises:
        FormatError: a run was begun under such rules.
    """
    if number > RULES:
        raise FormatError(f"the run was begun under rules {number} of the scenes; this version plays by {RULES}: use a newer one")
    if number < OLDEST:
        changes = "; ".join(f"{since}: {what}" for since, what in sorted(CHANGES.items()) if number < since)
        raise FormatError(
            f"the run was begun under rules {number} of the scenes; this version plays by {OLDEST} to {RULES}, and what it would derive is "
            f"another ({changes}): use the version that wrote the log"
        )
