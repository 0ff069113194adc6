"""The command line and the pipelines that it starts."""

import os

# Before pyarrow is imported, as it looks only once. Its own allocator would keep, for most of what Arrow computes, a
# second heap beside the one that `runners.memory` shares and trims. Worker processes inherit the setting.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
