"""Hydra's door to the main loop, sppnet.experiment.sweep: Hydra finds sweepers in this namespace only."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sppnet.errors import ConfigError, SppnetError
from sppnet.experiment.sweep import sweep

# No options: a table's axes stand in `table.axes`.
_NODE = {"_target_": "hydra_plugins.hydra_sppnet_sweeper.table_sweeper.TableSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="table", node=_NODE, provider="sppnet")


class TableSweeper(Sweeper):
    """Runs what is missing of one table."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context = hydra_context
        self.config = config
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Called by Hydra with the command line's overrides."""
        assert self.config is not None
        assert self.hydra_context is not None
        master, loader = self.config, self.hydra_context.config_loader
        own, folder = master.hydra, f"{master.paths.runs}/{master.table.name}"
        if (
            own.job.chdir
            or own.output_subdir is not None
            or (own.sweep.dir, own.sweep.subdir) != (folder, ".")
        ):
            raise ConfigError(
                "hydra.job.chdir, hydra.output_subdir and hydra.sweep are sppnet's own: results go to "
                "paths.runs/table.name; leave them out of your YAML files"
            )
        is_elsewhere = type(self._launcher).__name__ != "BasicLauncher"
        sweep(
            master,
            arguments,
            loader=loader,
            compose=lambda overrides: loader.load_sweep_config(master, list(overrides)),
            launch=self._launch if is_elsewhere else None,
        )

    def _launch(self, jobs: list[list[str]]) -> list[BaseException | None]:
        return [_raised(job) for job in self._launcher.launch(jobs, initial_job_idx=0)]


def _raised(job: JobReturn) -> BaseException | None:
    """What a job raised; Hydra's own property would raise it here."""
    if job.status is JobStatus.COMPLETED:
        return None
    error = job._return_value
    return error if isinstance(error, BaseException) else SppnetError(str(error))
