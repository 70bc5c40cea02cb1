from wavetune.api.deploy import deploy as deploy
from wavetune.api.load_run import Run as Run
from wavetune.api.load_run import load_run as load_run
from wavetune.api.plan import Planned as Planned
from wavetune.api.plan import plan as plan
from wavetune.api.rank import Ranking as Ranking
from wavetune.api.rank import compare as compare
from wavetune.api.rank import rank as rank
from wavetune.api.recipe import recipe as recipe
from wavetune.api.run import run as run
from wavetune.api.sweep import Swept as Swept
from wavetune.api.sweep import sweep as sweep
from wavetune.callbacks import Callback as Callback
from wavetune.errors import WavetuneError as WavetuneError
from wavetune.recipe import Recipe as Recipe

__version__: str
