"""Error codes that only qwen-loader gives: what keeps a verified model from being loaded. Part of `errors.ERRORS`."""

from __future__ import annotations

from qwen_api.language import N_

LOADER_ERRORS: dict[str, tuple[str, str]] = {
    "E_EMPTY": (
        N_("the model has no file to load"),
        N_("take another repository, or another revision of it"),
    ),
    "E_NO_LISTING": (
        N_("no list of the model's files is known, so nothing can be verified"),
        N_("start the daemon, or fetch the list with: qwenctl download MODEL"),
    ),
    "E_PATH_DENIED": (
        N_("this process may not read the model's folder"),
        N_("join the group of the cache: sudo usermod -aG qwen $USER, then log in again"),
    ),
    "E_PATH_NOT_HERE": (
        N_("the daemon's folder does not exist for this process"),
        N_("let both see the cache at the same path (containers: the same volume)"),
    ),
    "E_HAS_CODE": (
        N_("the repository brings Python code"),
        N_("read it; then let it in with --allow-code (qwen-loader never runs it)"),
    ),
    "E_HAS_PICKLE": (
        N_("the weights are pickles, which can run code when loaded"),
        N_("take a repository with safetensors; --allow-pickle is for COMMAND"),
    ),
    "E_STRAY": (
        N_("files that nobody verified lie among the model's, and loading would read them"),
        N_("take them out of the model's folder"),
    ),
    "E_MODEL_FAILED": (
        N_("the daemon gave up on the model"),
        N_("see why with: qwenctl status MODEL; then: qwenctl retry MODEL"),
    ),
    "E_MODEL_REMOVED": (
        N_("somebody told the daemon to forget the model"),
        N_("ask for it again with: qwenctl add MODEL"),
    ),
    "E_WAIT_TIMEOUT": (
        N_("the model was not complete in the time given"),
        N_("wait longer with --timeout, or look at it with: qwenctl status MODEL"),
    ),
    "E_CLOSED": (
        N_("the program that waited closed the wait"),
        N_("nothing to do: it is how a program ends its own wait"),
    ),
    "E_NOT_DIFFUSERS": (
        N_("the model is not a diffusers pipeline"),
        N_("hand the verified files to a program of your own: qwen-loader MODEL -- COMMAND"),
    ),
    "E_NOT_AN_EDITOR": (
        N_("the pipeline does not take a picture and a prompt"),
        N_("load it without --edit"),
    ),
    "E_NO_TORCH": (
        N_("torch or diffusers is not installed, or cannot be imported"),
        N_("pip install 'qwen-daemon[loader]'"),
    ),
    "E_OLD_DIFFUSERS": (
        N_("this diffusers may run code that a repository brings"),
        N_("pip install -U 'diffusers>=0.42.1'"),
    ),
    "E_NO_GPU": (
        N_("torch sees no CUDA device"),
        N_("check nvidia-smi and the driver, or: --device cpu"),
    ),
    "E_NO_VRAM": (
        N_("the GPU has too little memory"),
        N_("let components take turns on it with --placement model-offload, or use a larger GPU, or --device cpu"),
    ),
    "E_NO_ROOM": (
        N_("the weights fit neither the GPU nor the memory that is free"),
        N_("free memory, or use a larger machine or a quantized model; to try all the same: --placement"),
    ),
    "E_LOAD": (
        N_("diffusers cannot load the pipeline"),
        N_("the whole story: add --debug"),
    ),
    "E_EDIT": (
        N_("editing the picture failed"),
        N_("the whole story: add --debug"),
    ),
    "E_NO_COMMAND": (
        N_("the command to become does not exist"),
        N_("check the part after '--'"),
    ),
    "E_CANNOT_RUN": (
        N_("the command to become cannot be run"),
        N_("check its permissions"),
    ),
}
