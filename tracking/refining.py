"""The network's box alone, without a classifier: what the refinement is worth in a video."""

from __future__ import annotations

import numpy as np

from tracking.online import OnlineTracker
from tracking.result import Result


class RefinementOnly(OnlineTracker):
    """Begins each frame at the last box. The classifier is learnt in the first frame and never asked."""

    def update(self, image: np.ndarray) -> Result:
        """The box that the network makes of the last one."""
        self.frame += 1
        patch, features, _, _ = self._look(image)
        self.box = self._box(image, patch, features, self.box)
        x, y, w, h = self.box.tolist()
        return Result((x, y, w, h), 1.0, "found")
