"""World 2, in which hundreds of words name a look, so that there are directions in which one word means a look.

``looks`` says what an individual looks like and which looks have names, ``scene`` arranges pictures with large
subjects, ``language`` describes them. Drawing is world 1's.
"""

from dti_repro.toybox.world2 import language, looks, scene

__all__ = ["language", "looks", "scene"]
