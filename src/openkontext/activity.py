"""What an edit does before and between its steps, for whoever shows it: a log of its own, at DEBUG.

An edit of a large model is minutes on its way before its first step, and should not look dead meanwhile.
"""

import logging

LOG = logging.getLogger("openkontext.activity")
stage = LOG.debug
"""Say what is done from now on, in a few words: `stage("weights in 8 bits: layer %d of %d", done, count)`."""
