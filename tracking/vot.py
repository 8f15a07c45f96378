"""A tracker behind TraX (the protocol of vot-toolkit), on standard input and output. Needs vot-trax (extra `vot`)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from configs.errors import RequestError, RunError, TeachOnceError
from pairs.frames import read_frame
from tracking.one_pass import Tracker


def serve(tracker: Tracker, name: str) -> None:
    """Answers a client until it quits: a box for each image, with the tracker's score as `confidence`.

    RequestError: vot-trax is not installed. RunError: the client breaks the protocol, or gives an image that cannot be read.
    """
    try:
        import trax
    except ImportError as error:
        raise RequestError("vot: expected the package vot-trax, found none; install the extra `vot` (pip install '.[vot]')") from error
    try:
        server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], tracker_name=name, tracker_family="TeachOnce")
        try:
            _answer(trax, server, tracker)
        except TeachOnceError as error:
            server.quit(str(error))  # the client's log has the reason too
            raise
        server.quit()
    except trax.TraxException as error:
        raise RunError(f"vot: expected a TraX client on standard input, found none ({error}); start it from vot-toolkit") from error


def _answer(trax: Any, server: Any, tracker: Tracker) -> None:
    """The conversation."""
    while True:
        request = server.wait()
        if request.type not in (trax.TraxStatus.INITIALIZE, trax.TraxStatus.FRAME):
            return
        image = cv2.cvtColor(read_frame(request.image["color"].path()), cv2.COLOR_BGR2RGB)
        if request.type == trax.TraxStatus.INITIALIZE:
            box, properties = request.objects[0][0].bounds(), {}
            tracker.init(image, np.array(box, np.float64))
        else:
            result = tracker.update(image)
            box, properties = result.box, {"confidence": result.score}
        server.status([(trax.Rectangle.create(*map(float, box)), properties)])
