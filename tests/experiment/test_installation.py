"""What the machine must have is found out before anything is read."""

import pytest

from sppnet.errors import ResourceError
from sppnet.experiment.installation import require_shared_memory


def test_batches_that_do_not_fit_into_shared_memory_are_refused():
    require_shared_memory(0, workers=0)
    with pytest.raises(ResourceError, match=r"data_loading.workers=2 take 1000000000000.0; lower data_load"):
        require_shared_memory(10**18, workers=2)
