"""Mistakes on the command line cost one clear line; overrides do what they say."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.types import EngineError, JudgeError

ROOT = Path(__file__).parent.parent
DAPO = str(ROOT / "configs/dapo.py")


def load(*arguments):
    return cli.load(cli.make_parser("", default_config=DAPO), arguments)[0]


def error_of(*arguments) -> str:
    with pytest.raises(UserError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_config(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(body)
    return str(path)


def own_config(folder: Path, problems: str) -> str:
    return write_config(
        folder,
        f"""
import dataclasses, importlib.util
spec = importlib.util.spec_from_file_location("dapo", {DAPO!r})
dapo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dapo)
def get_config():
    config = dapo.get_config()
    return dataclasses.replace(config, data=dataclasses.replace(config.data, problems={problems!r}))
""",
    )


@pytest.mark.parametrize(
    "arguments",
    [["--loss.clip-high", "0.3"], ["--loss.clip_high", "0.3"], ["--loss.clip-high=0.3"], ["--loss.clip_high=0.3"]],
)
def test_a_field_is_overridden_with_dashes_or_underscores(arguments):
    assert load(*arguments).loss.clip_high == 0.3


def test_fields_that_are_not_named_keep_the_value_of_the_file():
    default, changed = load(), load("--num-steps", "3", "--run-dir", "here")
    assert changed.flatten() == default.flatten() | {"num_steps": 3, "run_dir": "here"}


def test_several_values_make_a_tuple():
    assert load("--rollout.urls", "http://a:1", "http://b:2").rollout.urls == ("http://a:1", "http://b:2")


def test_two_fields_that_only_fit_together_can_be_given_together():
    config = load("--data.max-prompt-tokens", "4096", "--experience.row-tokens", "40960")
    assert (config.data.max_prompt_tokens, config.experience.row_tokens) == (4096, 40960)


def test_an_unknown_field_names_the_nearest_one():
    assert error_of("--loss.clip-hihg", "1") == "unknown option --loss.clip-hihg; did you mean --loss.clip-high?"


def test_a_field_without_its_section_names_the_whole_field():
    assert "did you mean --optimizer.learning-rate?" in error_of("--learning-rate", "1")


def test_initials_name_the_field():
    assert "did you mean --optimizer.learning-rate?" in error_of("--optimizer.lr", "1")


def test_the_options_between_two_configs_make_one_of_the_other():
    config = load()
    changes = ["--optimizer.learning-rate=0.5", "--loss.name=gspo", "--rollout.urls", "http://a:1", "http://b:2"]
    changes += ["--name", "it's new", "--server.deterministic", "--data.no-enable-thinking"]
    for other in (cli.apply_overrides(config, changes), cli.apply_overrides(config, changes[:2])):
        options = shlex.split(" ".join(cli.options_between(config, other)))
        assert cli.apply_overrides(config, options) == other
    assert cli.options_between(config, config) == []


def test_a_value_of_the_wrong_type_names_field_value_and_what_it_takes():
    assert error_of("--num-steps", "many") == "--num-steps got 'many'; it takes a whole number"
    assert error_of("--loss.name", "ppo").startswith("--loss.name got 'ppo'; it takes one of grpo, ")
    assert "it takes no value: --logging.tensorboard turns it on" in error_of("--logging.tensorboard", "True")


def test_a_missing_value_is_named():
    assert error_of("--num-steps") == "--num-steps got no value; it takes a whole number"


def test_a_value_without_an_option_is_named():
    assert error_of("fast").startswith("got 'fast' where an option was expected")


def test_a_config_that_contradicts_itself_says_which_fields_and_what_to_do():
    message = error_of("--experience.row-tokens", "10")
    assert message.startswith("experience.row_tokens is 10, shorter than") and "raise it to 32768" in message


def test_a_missing_config_file_is_named_with_those_that_exist():
    message = error_of("--config", str(ROOT / "configs/nope.py"))
    assert "nope.py does not exist" in message and "dapo.py" in message


def test_a_config_file_without_get_config_says_so(tmp_path):
    assert "has no get_config()" in error_of("--config", write_config(tmp_path, "x = 1\n"))


def test_a_config_file_that_fails_is_one_line(tmp_path):
    assert "fails with NameError" in error_of(
        "--config", write_config(tmp_path, "def get_config():\n    return nope\n")
    )


def test_a_config_file_that_returns_something_else_says_what(tmp_path):
    assert "returned int" in error_of("--config", write_config(tmp_path, "def get_config():\n    return 1\n"))


def test_a_config_file_names_its_own_neighbours(tmp_path):
    (tmp_path / "problems.jsonl").write_text("")
    config = load("--config", own_config(tmp_path, "problems.jsonl"))
    assert config.data.problems == str(tmp_path / "problems.jsonl")


def test_a_path_that_is_not_beside_the_config_file_is_left_alone(tmp_path):
    config = load("--config", own_config(tmp_path, "elsewhere.jsonl"))
    assert config.data.problems == "elsewhere.jsonl"
    assert config.model.path == "Qwen/Qwen3-14B"


def test_a_path_on_the_command_line_is_relative_to_the_working_directory(tmp_path):
    (tmp_path / "problems.jsonl").write_text("")
    config = load("--config", own_config(tmp_path, "problems.jsonl"), "--data.problems", "problems.jsonl")
    assert config.data.problems == "problems.jsonl"


def parser_with_resume():
    parser = cli.make_parser("", default_config=DAPO)
    parser.add_argument("--resume", metavar="RUN_DIR")
    return parser


def test_resume_takes_the_config_of_the_run_and_overrides_count_on_top(tmp_path):
    (tmp_path / "config.json").write_text(load("--seed", "7").to_json())
    config, options = cli.load(parser_with_resume(), ["--resume", str(tmp_path), "--num-steps", "9"])
    assert (config.seed, config.num_steps, config.run_dir, options.resume) == (7, 9, str(tmp_path), str(tmp_path))


def test_resume_of_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        cli.load(parser_with_resume(), ["--resume", str(tmp_path)])


def test_resume_and_config_together_are_refused(tmp_path):
    with pytest.raises(UserError, match="drop --config"):
        cli.load(parser_with_resume(), ["--resume", str(tmp_path), "--config", DAPO])


def test_help_shows_sections_units_and_defaults(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.load(parser_with_resume(), ["--help"])
    shown = capsys.readouterr().out
    assert exit_.value.code == 0
    for expected in (
        "--resume RUN_DIR",
        "loss options",
        "--loss.clip-high FLOAT",
        "(default: 0.28)",
        "CPU seconds a test",
    ):
        assert expected in " ".join(shown.replace("│", " ").split())


def raise_(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("got 1,\nexpected 2"), 2, "error: got 1, expected 2\n"),
        (JudgeError("no docker"), 1, "error: the judge failed: no docker\n"),
        (EngineError("no server"), 1, "error: the engine failed: no server\n"),
        (
            ModuleNotFoundError("No module named 'flax'", name="flax"),
            2,
            "error: flax is not installed; the extra train brings it: pip install 'nouscoder-jax[train]', "
            "in a checkout pip install -e '.[train]'\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_script_ends_with_one_line_and_its_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.run_script(lambda: raise_(error))
    assert (exit_.value.code, capsys.readouterr().err) == (code, line)


def test_a_module_of_ours_that_is_missing_is_no_matter_of_extras():
    with pytest.raises(ModuleNotFoundError):
        cli.run_script(lambda: raise_(ModuleNotFoundError("gone", name="nouscoder_jax.gone")))


def test_a_script_exits_with_what_its_main_returns():
    with pytest.raises(SystemExit) as exit_:
        cli.run_script(lambda: 1)
    assert exit_.value.code == 1


def test_the_command_line_never_imports_jax():
    code = (
        f"import sys, nouscoder_jax.cli as c; c.load(c.make_parser('', default_config={DAPO!r}), []); "
        "print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
