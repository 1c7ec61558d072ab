"""Scene `critique-revise`: the supervised stage of Constitutional AI (Bai et al. 2022), a critique by a principle, then a revision.

The principle is drawn from `principles.txt`, as there: one a scene, uniformly.
"""

from matrix_py.events import CritiqueWritten, ResponseRevised
from matrix_py.scene.context import Scene
from matrix_py.scene.vanilla import respond


async def critique_revise(scene: Scene) -> None:
    """Respond, criticise the response by one principle, and revise it."""
    response = await respond(scene)
    principles = scene.prompts.principles()
    principle = principles[scene.draw("principle", len(principles))]
    critique = await scene.turn("critique", instruction=scene.instruction, response=response, principle=principle)
    scene.emit(CritiqueWritten(principle=principle, text=critique.text))
    revision = await scene.turn("revise", instruction=scene.instruction, response=response, critique=critique.text)
    scene.emit(ResponseRevised(text=revision.text))
