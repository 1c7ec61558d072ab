"""Scene `vanilla`: the model alone."""

from matrix_py.scene.context import Scene
from matrix_py.types import ResponseGiven


async def vanilla(scene: Scene) -> None:
    """Take the given response, or ask for one."""
    await respond(scene)


async def respond(scene: Scene) -> str:
    """Return the initial response: the input's, or the model's."""
    response = scene.given_response
    if response is None:
        response = (await scene.turn("respond", instruction=scene.instruction)).text
    scene.emit(ResponseGiven(given=scene.given_response is not None, text=response))
    return response
