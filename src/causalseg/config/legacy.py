"""Options of versions 0.2 and 0.3: their run folders contain every option and must still load."""

from typing import Any

_TOKEN_NAMES = {"scale": "scale", "token_spread": "token_std", "query_spread": "query_std"}
_REMOVED_BANDS = ("learnable", "gains", "peak_normalised")


def move_to_init(options: Any) -> Any:
    """Move `scale`, `token_spread` and `query_spread` of 0.2 to `init`, of its kind `small`."""
    old = _TOKEN_NAMES.keys() & options if isinstance(options, dict) else ()
    if not old or "init" in options:
        return options
    kept = {key: value for key, value in options.items() if key not in old}
    return {**kept, "init": {"kind": "small"} | {_TOKEN_NAMES[key]: options[key] for key in old}}


def move_linear_path(options: dict[str, Any]) -> dict[str, Any]:
    """Turn `linear_path` of 0.2 into the recipe; leave what it did not allow for an error."""
    path, recipe = options.get("linear_path"), options.get("recipe", "centered")
    if path == "full" and recipe == "centered":
        recipe = "full_path"
    elif path != "band":
        return options
    kept = {key: value for key, value in options.items() if key != "linear_path"}
    return {**kept, "recipe": recipe}


def drop_removed(options: Any) -> Any:
    """Drop removed options of a band where they were off; raise ValueError if one was on."""
    if not isinstance(options, dict):
        return options
    for key in _REMOVED_BANDS:
        if options.get(key):
            raise ValueError(
                f"{key} = {options[key]} was removed after version 0.3, which can still run it: "
                "leave it out"
            )
    return {key: value for key, value in options.items() if key not in _REMOVED_BANDS}
