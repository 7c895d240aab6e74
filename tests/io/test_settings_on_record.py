"""Results of older versions, which have fewer settings on record, are those of the same settings now."""

import json
from pathlib import Path

from ddpm.config.sections import SampleConfig
from ddpm.io.provenance import describe_changes, settings_on_record


def test_a_setting_that_older_results_lack_is_recorded_only_where_it_matters(tmp_path: Path) -> None:
    now = SampleConfig().sampling_options() | {"compile": False}
    older = {name: value for name, value in now.items() if name not in ("mixed_precision", "compile")}
    assert "mixed_precision" in now and settings_on_record(now) == older
    assert not describe_changes(json.loads(json.dumps(older)), settings_on_record(now))
    for setting in ({"mixed_precision": "bf16"}, {"compile": True}):
        changed = settings_on_record(now | setting)
        (name,) = setting
        assert changed[name] == setting[name] and name in describe_changes(older, changed)
