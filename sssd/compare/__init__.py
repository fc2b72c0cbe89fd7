"""Does a change of a training help? Paired runs, a rule written beforehand, a verdict."""

import sssd.extras  # noqa: F401  it comes before what may be missing
