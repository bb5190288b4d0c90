"""The configuration: what a file says, what wins over it, and how a mistake is told."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_daemon.config import BadConfig, Config, ConfiguredModel, Network, load, read, settle
from qwen_daemon.config import local_dirs as local_dirs_of
from qwen_daemon.endpoints import order_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_file_is_read_into_what_it_says(file: Path) -> None:
    """Sections, limits, models with their patterns and policy."""
    file.write_text(
        'cache_dir = "~/models"\noffline = true\n[network]\nmax_files = 3\n[disk]\nreserve_bytes = 5\n'
        '[[models]]\nmodel = "qwen-image-edit"\n'
        '[[models]]\nmodel = "org/name@v1"\ninclude = ["*.json"]\nexclude = ["a*"]\nfollow = "pin"\n'
    )
    config = read(file)
    assert (config.cache_dir, config.offline, config.network.max_files, config.disk.reserve_bytes) == (
        "~/models",
        True,
        3,
        5,
    )
    assert config.models == (
        ConfiguredModel(model="qwen-image-edit"),
        ConfiguredModel(model="org/name@v1", include=("*.json",), exclude=("a*",), follow="pin"),
    )
    assert config.network.read_timeout_s == Network().read_timeout_s


@pytest.mark.fault("X8")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ofline = true", "did you mean `offline`?"),
        ("[network]\nmaxfiles = 3", "did you mean `max_files`?"),
        ("[network]\nread_timeout = 3", "did you mean `read_timeout_s`?"),
        ('[[models]]\nmodel = "org/name"\nfolow = "pin"', "did you mean `follow`?"),
        ("[disc]\nreserve_bytes = 1", "did you mean `disk`?"),
        ("xyzzy = 1", "unknown field `xyzzy`"),
        ("[network]\nmax_files = 0", "$.network.max_files"),
        ("[network]\nmax_files = 65", "$.network.max_files"),
        ('[network]\nmax_files = "3"', "$.network.max_files"),
        ("[network]\nmax_connections = 0", "$.network.max_connections"),
        ("[network]\nrate_limit_bps = 5", "$.network.rate_limit_bps"),
        ("[network]\nrate_limit_bps = true", "$.network.rate_limit_bps"),
        ('[network]\nrate_limit_bps = "fast"', "such as 20MB/s"),
        ('[[models]]\nmodel = "org/name"\nrate_limit_bps = "20Mbit/s"', "$.models[0].rate_limit_bps"),
        ('[[models]]\nmodel = "org/name"\npriority = 101', "$.models[0].priority"),
        ("[network]\nmax_rate = 3", "$.network"),
        ("[disk]\nreserve_bytes = -1", "$.disk.reserve_bytes"),
        ("[check]\ndisk_interval_s = 0", "$.check.disk_interval_s"),
        ('[[models]]\nmodel = "org/name"\nfollow = "sometimes"', "$.models[0].follow"),
        ('[[models]]\nmodel = "org/name"\n[[models]]\nmodel = "qwen-imag-edit"', "did you mean 'qwen-image-edit'?"),
        ('[[models]]\nmodel = "../../etc"', "$.models[0].model"),
        ("[[models]]\n", "missing required field `model`"),
        ("offline = ", "is not TOML"),
        ('mirors = "http://x"', "did you mean `mirrors`?"),
        ('[mirrors.lan]\nurl = "http://x"\ntoken_fle = "/x"', "did you mean `token_file`?"),
        ('endpoint = "http://me:s3cret@x"', "an address holds no password"),
        ("[mirrors]\nlan = 3", "write [mirrors] and under it"),
        ('[mirrors]\nlan = "10.0.0.5:8090"', "is no address such as"),
        ('[mirrors]\n"../x" = "http://x"', "a mirror's name"),
        ('[mirrors]\nhub = "http://x"', "set its address with `endpoint`"),
        ('[mirrors]\na = "http://x"\nb = "http://X:80/"', "'a' and 'b' are the same address"),
        ('[mirrors]\na = "http://me:s3cret@x"', "an address holds no password"),
        ('[mirrors.a]\nurl = "http://x"\ntoken_env = "A"\ntoken_file = "/a"', "keep one"),
        ('[mirrors.a]\nurl = "http://x"\ntoken_env = "hf_s3cret-"', "not the token itself"),
        ('[mirrors.a]\nurl = "http://x"\ntoken_file = "token"', "a path from the root"),
        ('[[endpoints]]\nname = "lan"\nurl = "http://x"', "write [mirrors] and under it"),
        ('endpoints = "hub"', "write [mirrors] and under it"),
        ('endpoints = ["lam"]\n[mirrors]\nlan = "http://x"', "did you mean 'lan'?"),
        ('endpoints = ["http://x"]', "give it a name"),
        ('endpoints = ["hub", "hub"]', "stands twice"),
        ('[[models]]\nmodel = "org/name"\nendpoints = ["hbu"]', "did you mean 'hub'? - at `$.models[0].endpoints`"),
        ('[[models]]\nmodel = "org/name"\nendpoint = ["hub"]', "did you mean `endpoints`?"),
    ],
)
def test_a_mistake_is_told_with_its_place(file: Path, text: str, said: str) -> None:
    """The file, the path of the key, and the nearest key that exists."""
    file.write_text(text)
    with pytest.raises(BadConfig) as refused:
        read(file)
    assert said in str(refused.value) and str(file) in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_speed_is_written_as_a_number_or_as_people_do(file: Path) -> None:
    """For all models and for one; "off" is the same as leaving it out."""
    file.write_text(
        '[network]\nrate_limit_bps = "20MB/s"\nmax_connections = 4\n'
        '[[models]]\nmodel = "org/name"\nrate_limit_bps = 500000\npriority = -1\n'
        '[[models]]\nmodel = "org/other"\nrate_limit_bps = "off"\n'
    )
    config = read(file)
    assert (config.network.rate_limit_bps, config.network.max_connections) == (20_000_000, 4)
    assert config.models == (
        ConfiguredModel(model="org/name", rate_limit_bps=500_000, priority=-1),
        ConfiguredModel(model="org/other"),
    )


def folders(tmp_path: Path, *local_dirs: str) -> dict[str, Path]:
    """What these say, in a home and beside a cache of their own."""
    models = [ConfiguredModel(model=f"org/m{n}", local_dir=local_dir) for n, local_dir in enumerate(local_dirs)]
    return local_dirs_of(models, tmp_path / "hub")


def test_a_local_dir_is_a_whole_path_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home is filled in and links are followed; a model without one is in none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert folders(tmp_path, "~/a", "", str(tmp_path / "link" / "b")) == {
        "org--m0": tmp_path / "a",
        "org--m2": tmp_path / "disk" / "b",
    }


@pytest.mark.parametrize(
    ("local_dirs", "why"),
    [
        (["models/a"], "not a whole path"),
        (["~nobody-of-this-name/a"], "cannot be used"),
        (["/x\0y"], "cannot be used"),
        (["{}/file"], "not a folder"),
        (["{}/loop"], "cannot be used"),
        (["{}/hub"], "the Hub cache"),
        (["{}/hub/mine"], "lies in .*the Hub cache"),
        (["{}"], "holds .*the Hub cache"),
        (["{}/a", "{}/a"], "is .*local_dir of org/m0"),
        (["{}/a", "{}/a/b"], "lies in .*local_dir of org/m0"),
        (["{}/a/b", "{}/a"], "holds .*local_dir of org/m0"),
        (["{}/a", "{}/link/a"], "is .*local_dir of org/m0"),
    ],
)
def test_local_dirs_that_cannot_be_are_refused(tmp_path: Path, local_dirs: list[str], why: str) -> None:
    """Not whole, not folders, or inside one another: told by model."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(BadConfig, match=why):
        folders(tmp_path, *(text.format(tmp_path) for text in local_dirs))


@pytest.mark.fault("X8")
@given(st.binary(max_size=200))
def test_no_content_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """A configuration, or BadConfig."""
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    with suppress(BadConfig):
        assert isinstance(read(file), Config)


def test_flags_win_over_environment_over_file_over_defaults(file: Path, tmp_path: Path) -> None:
    """For each of the places."""
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/user/7"}
    bare = settle(Config(), None, env)
    assert bare.cache_dir == tmp_path / ".cache/huggingface/hub"
    assert bare.state_dir == tmp_path / ".local/state/qwen-daemon"
    assert bare.control_socket == Path("/run/user/7/qwen-daemon/control.sock")
    assert (bare.endpoint, bare.offline) == ("https://huggingface.co", False)
    config = Config(cache_dir="/from/file", endpoint="http://mirror/", offline=False)
    assert settle(config, file, env).cache_dir == Path("/from/file")
    assert settle(config, file, env).endpoint == "http://mirror"
    env |= {"HF_ENDPOINT": "http://other/", "HF_HUB_OFFLINE": "1"}
    from_env = settle(config, file, env)
    assert (from_env.endpoint, from_env.offline) == ("http://other", True)
    assert settle(config, file, env, cache_dir=Path("/flag")).cache_dir == Path("/flag")


def test_a_configured_cache_wins_over_the_hubs_own_variables(tmp_path: Path) -> None:
    """HF_HUB_CACHE and HF_HOME keep huggingface_hub's meaning; a unit's HF_HOME stands until a file says otherwise."""
    env = {"HOME": str(tmp_path), "HF_HOME": "/hf"}
    assert settle(Config(), None, env).cache_dir == Path("/hf/hub")
    assert settle(Config(), None, env | {"HF_HUB_CACHE": "/cache"}).cache_dir == Path("/cache")
    assert settle(Config(cache_dir="/file"), None, env).cache_dir == Path("/file")


def test_the_first_file_found_is_used(tmp_path: Path) -> None:
    """--config, then the variable (which must exist), then the user's; none is no error."""
    env = {"HOME": str(tmp_path)}
    assert load(env, None)[0] == Config() or load(env, None)[1] == Path("/etc/qwen-daemon/config.toml")
    user = tmp_path / ".config/qwen-daemon/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("offline = true")
    assert load(env, None) == (Config(offline=True), user)
    given_file = tmp_path / "given.toml"
    with pytest.raises(BadConfig):
        load(env, given_file)
    given_file.write_text("")
    assert load(env | {"QWEN_DAEMON_CONFIG": str(given_file)}, None) == (Config(), given_file)
    with pytest.raises(BadConfig, match="QWEN_DAEMON_CONFIG"):
        load({"QWEN_DAEMON_CONFIG": "/absent"}, None)


def test_mirrors_beside_the_hub_take_two_lines(file: Path) -> None:
    """Names and addresses; they come before the Hub, whose address is what it was without them."""
    file.write_text('[mirrors]\nlan = "http://10.0.0.5:8090/"\n[mirrors.far]\nurl = "https://x"\ntoken_env = "FAR"\n')
    config = read(file)
    settings = settle(config, file, {"HF_ENDPOINT": "http://hub.example"})
    assert [(one.name, one.url, one.token_env, one.is_mirror) for one in settings.endpoints] == [
        ("lan", "http://10.0.0.5:8090", "", True),
        ("far", "https://x", "FAR", True),
        ("hub", "http://hub.example", "", False),
    ]
    assert order_of(config, settings.endpoints).of("any") == ("lan", "far", "hub")
    assert [one.url for one in settle(Config(), None, {}).endpoints] == ["https://huggingface.co"]


def test_an_order_for_all_models_and_one_for_a_single_one(file: Path) -> None:
    """By the model's key, however the file names it."""
    file.write_text(
        'endpoints = ["hub", "lan"]\n[mirrors]\nlan = "http://x"\n'
        '[[models]]\nmodel = "qwen-image-edit"\nendpoints = ["lan"]\n'
    )
    config = read(file)
    order = order_of(config, settle(config, file, {}).endpoints)
    assert order.of("org--name") == ("hub", "lan")
    assert order.of("Qwen--Qwen-Image-Edit-2511") == ("lan",)


def test_what_only_the_environment_and_the_disk_can_contradict(file: Path) -> None:
    """HF_ENDPOINT is one of the mirrors; a token file is not there."""
    file.write_text('[mirrors]\nlan = "http://x"\n')
    with pytest.raises(BadConfig, match="'lan' and 'hub' are the same address"):
        settle(read(file), file, {"HF_ENDPOINT": "http://x/"})
    file.write_text(f'[mirrors.lan]\nurl = "http://x"\ntoken_file = "{file}.token"\n')
    with pytest.raises(BadConfig, match="there is no file"):
        settle(read(file), file, {})
