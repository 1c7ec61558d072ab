"""Scenes: async functions that await turns and emit events through an injected `Scene`."""

from matrix_py.scene.context import Reply, ReplyUnusable, Scene, SceneFunction, TurnFailed, TurnTooLong
from matrix_py.scene.critique_revise import critique_revise
from matrix_py.scene.matrix import matrix
from matrix_py.scene.published import published
from matrix_py.scene.quote import Quote
from matrix_py.scene.registry import find_scene
from matrix_py.scene.vanilla import vanilla

__all__ = [
    "Quote",
    "Reply",
    "ReplyUnusable",
    "Scene",
    "SceneFunction",
    "TurnFailed",
    "TurnTooLong",
    "critique_revise",
    "find_scene",
    "matrix",
    "published",
    "vanilla",
]
