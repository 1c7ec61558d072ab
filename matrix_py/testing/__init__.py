"""Help for tests of scenes: a scripted model, and one scene run from start to end. Nothing here needs a model.

def answer(turn: Turn) -> str:
    return "yes" if turn.kind == "verdict" else "A reply."

trace = run_scene(my_scene, "What is a fork?", ScriptedModel(answer), prompts=make_prompts({"verdict": "{instruction}"}))
assert [event["kind"] for event in trace.events] == [...]
"""

from matrix_py.testing.scripted import FormFailed, Recorder, ScriptedModel, TooLong, Trace, make_prompts, run_scene

__all__ = ["FormFailed", "Recorder", "ScriptedModel", "TooLong", "Trace", "make_prompts", "run_scene"]
