"""What Hydra is here: it knows the schema and the user's folders, and looks before it acts."""

import copy
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any, ClassVar, Final

import hydra._internal.hydra
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from sppnet.errors import ConfigError
from sppnet.experiment.command_line import at_home
from sppnet.experiment.making import require_allowed
from sppnet.experiment.schema import Conf, for_hydra
from sppnet.run.directory import refuse_bombs

# Parts of keys: of paths, which stages look at on the machine where they run, and of a dashboard's on or off.
_FROM_ENVIRONMENT: Final = frozenset(
    {"paths", "root", "path", "file", "files", "folder", "weights", "mode", "hydra"}
)
_MOST_BYTES: Final = 1_000_000  # of a YAML file; ours have some thousand
_PLUGINS: Final = ("hydra_plugins.", "hydra._internal.core_plugins.")


@functools.cache
def register() -> None:
    """Make the schema, the user's folders and what is looked at known to Hydra."""
    ConfigStore.instance().store(name="schema", node=for_hydra(Conf))
    hydra._internal.hydra.Hydra = GuardedHydra  # type: ignore[misc]
    OmegaConf.register_new_resolver("oc.env", _from_environment, replace=True)
    Plugins.instance().register(UserConf)
    SourcesRegistry.instance().types[Files.scheme()] = Files


class UserConf(SearchPathPlugin):
    """Adds the user's own configuration folders behind ours: $SPPNET_CONF and ~/.config/sppnet."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when it starts."""
        for folder in user_folders():
            search_path.append("sppnet-user", f"file://{folder}")


def user_folders() -> list[Path]:
    """Where the user's own files are, apart from --config-dir; what cannot be looked into is not there."""
    places = [at_home(place) for place in (os.environ.get("SPPNET_CONF"), "~/.config/sppnet") if place]
    return [Path(place).absolute() for place in places if os.path.isdir(place)]  # noqa: PTH112 - which never raises


class Files(FileConfigSource):
    """Hydra's, but what blows up is refused, and a file is parsed once until it changes.

    Every cell of a table is composed of some 30 files.
    """

    _parsed: ClassVar[dict[tuple[object, ...], ConfigResult]] = {}

    def load_config(self, config_path: str) -> ConfigResult:
        """Called by Hydra.

        Raises:
            ConfigError: The file is no YAML, or more of it than a configuration has.
        """
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            return super().load_config(config_path)  # which says so
        state = file.stat()
        key = (self.provider, file, state.st_mtime_ns, state.st_size)
        if key not in self._parsed:
            try:
                if state.st_size > _MOST_BYTES:
                    raise ValueError(f"{state.st_size} bytes, more than {_MOST_BYTES}")
                with file.open("rb") as stream:
                    refuse_bombs(stream)
                self._parsed[key] = super().load_config(config_path)
            except OmegaConfBaseException:  # a value of no type that there is
                raise
            except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
                found = " ".join(str(error).split())
                raise ConfigError(f"{file}: not readable as YAML ({found}); mend the file") from error
        return copy.deepcopy(self._parsed[key])


class GuardedHydra(hydra._internal.hydra.Hydra):
    """Hydra, which looks at a configuration before it acts on it.

    Hydra itself makes what callbacks, launchers, sweepers and logging name, as soon as it has composed.
    """

    def get_mode(self, *_arguments: Any, **_named: Any) -> None:
        """Called by Hydra, which would compose all of it to find out that every command is a sweep."""

    def show_info(
        self, info: str, config_name: str | None, overrides: list[str], run_mode: RunMode = RunMode.RUN
    ) -> None:
        """Called by Hydra, which gives it to its log: here once, and to standard output."""
        root = logging.getLogger()
        handlers, level = root.handlers, root.level
        root.handlers = []
        logging.getLogger("hydra").setLevel(logging.DEBUG)
        try:
            super().show_info(info, config_name, overrides, run_mode)
        finally:
            root.handlers, root.level = handlers, level

    def show_cfg(
        self,
        config_name: str | None,
        overrides: list[str],
        cfg_type: str,
        package: str | None,
        resolve: bool = False,
    ) -> None:
        """Called by Hydra.

        Raises:
            ConfigError: There is no such part, for which Hydra would exit.
        """
        if package not in (None, "_global_"):
            config = self.compose_config(config_name, overrides, RunMode.RUN)
            if OmegaConf.select(config, package) is None:
                raise ConfigError(
                    f"--package {package}: no such key, or null; sppnet --cfg job shows all keys"
                )
        super().show_cfg(config_name, overrides, cfg_type, package, resolve)

    def compose_config(self, *arguments: Any, **named: Any) -> DictConfig:
        """Called by Hydra.

        Raises:
            ConfigError: It names what may not run.
        """
        config = super().compose_config(*arguments, **{**named, "with_log_configuration": False})
        if named.get("config_name", "config") is None:  # --hydra-help: Hydra's own part, shown and not made
            return config
        for name in ("hydra_logging", "job_logging"):
            if OmegaConf.select(config, f"hydra.{name}.root") is not None:
                raise ConfigError(f"hydra/{name}: runs write run.log themselves; leave it at none")
        for name in ("callbacks", "launcher", "sweeper"):
            node = config.hydra[name]
            if name != "callbacks" and not isinstance(node, DictConfig):
                raise ConfigError(f"hydra.{name}={node}: choose one by its name, hydra/{name}=NAME")
            part: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
            if name != "callbacks" and str(part.get("_target_")).startswith(_PLUGINS):
                del part["_target_"]  # Hydra sees to it that it is an installed plugin
            require_allowed(part, f"hydra.{name}")
        return config


def _from_environment(name: str, *default: Any, _node_: Node) -> Any:
    """Hydra's `oc.env`, for paths only: other values are written into files, tables, logs and dashboards.

    Raises:
        ConfigError: Another key asks for it.
    """
    key = _node_._get_full_key(None)
    if _FROM_ENVIRONMENT.isdisjoint(re.split(r"[.\[]", key)):
        raise ConfigError(
            f"takes its value from the environment variable {name}, which would be written into files and "
            f"dashboards; only paths may (paths.data, data.root, ...): give the value itself"
        )
    return env(name, *default)
