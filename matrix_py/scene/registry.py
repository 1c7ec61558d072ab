"""Finding a scene by its name: the built-in ones, and `package.module:function` for users' own."""

import importlib
import inspect
import sys
from pathlib import Path

from matrix_py.errors import ConfigError
from matrix_py.scene.context import SceneFunction
from matrix_py.scene.critique_revise import critique_revise
from matrix_py.scene.matrix import matrix
from matrix_py.scene.published import published
from matrix_py.scene.vanilla import vanilla

SCENES: dict[str, SceneFunction] = {"critique-revise": critique_revise, "matrix": matrix, "published": published, "vanilla": vanilla}
# Scenes to which no `Limits` apply.
WITHOUT_ROLES = ("critique-revise", "vanilla")


def find_scene(name: str) -> SceneFunction:
    """Return the scene of that name.

    Raises:
        ConfigError: no scene goes by it, or what does is not an async function.
    """
    if name in SCENES:
        return SCENES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ConfigError(f"scene {name!r} is not known: choose {', '.join(sorted(SCENES))}, or give package.module:function")
    # The `matrix` script, unlike `python -m`, does not look for modules in the folder that somebody works in.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # the module is the user's: importing it can raise anything
        raise ConfigError(f"scene {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(f"scene {name!r} is not an async function: write 'async def {function_name}(scene): ...'")
    found: SceneFunction = function
    return found
