"""Scene `vanilla`: the model alone."""

from matrix_py.events import ResponseGiven
from matrix_py.scene.context import Scene
from matrix_py.scene.quote import Quote


async def vanilla(scene: Scene) -> None:
    """Take the given response, or ask for one."""
    await respond(scene)


async def respond(scene: Scene) -> Quote:
    """Return the initial response: the input's, or the model's."""
    given = scene.given_response
    # It goes by the path of the turn that there would be.
    response = Quote(given, ["respond"]) if given is not None else (await scene.turn("respond", instruction=scene.instruction)).text
    scene.emit(ResponseGiven(given=given is not None, text=response))
    return response
