"""Compiling kernels and calling them: one compiled function for each level and shape, made when first needed."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir

from serving.kernels import bounds, centroids, compress, maxsim, nearest
from serving.kernels.levels import Level

Kernel = Callable[..., None]
"""Takes integers and addresses, in the order of the kernel's ARGUMENTS, and releases the GIL."""

_compiling = threading.RLock()
_engines: list[Any] = []  # compiled code lives as long as its engine


@functools.cache
def maxsim_kernel(level: Level, bits: int, widths: tuple[int, ...]) -> Kernel:
    return _compile(level, maxsim.NAME, len(maxsim.ARGUMENTS), lambda m: maxsim.build(m, level, bits, widths))


@functools.cache
def centroid_bytes_kernel(level: Level, widths: tuple[int, ...]) -> Kernel:
    arguments = len(centroids.CENTROIDS_ARGUMENTS)
    return _compile(level, centroids.CENTROIDS, arguments, lambda m: centroids.build_centroids(m, level, widths))


@functools.cache
def outlier_bytes_kernel(level: Level, bits: int, widths: tuple[int, ...]) -> Kernel:
    arguments = len(centroids.OUTLIERS_ARGUMENTS)
    return _compile(level, centroids.OUTLIERS, arguments, lambda m: centroids.build_outliers(m, level, bits, widths))


@functools.cache
def scan_kernel(level: Level, blocks: int, id_bytes: int) -> Kernel:
    arguments = len(centroids.SCAN_ARGUMENTS)
    return _compile(level, centroids.SCAN, arguments, lambda m: centroids.build_scan(m, level, blocks, id_bytes))


@functools.cache
def probes_kernel(level: Level, blocks: int) -> Kernel:
    return _compile(level, bounds.PROBES, len(bounds.PROBES_ARGUMENTS), lambda m: bounds.build_probes(m, level, blocks))


@functools.cache
def gains_kernel(level: Level) -> Kernel:
    return _compile(level, bounds.GAINS, len(bounds.GAINS_ARGUMENTS), bounds.build_gains)


@functools.cache
def bounds_kernel(level: Level, blocks: int) -> Kernel:
    return _compile(level, bounds.BOUNDS, len(bounds.BOUNDS_ARGUMENTS), lambda m: bounds.build_bounds(m, level, blocks))


@functools.cache
def nearest_kernel(level: Level, blocks: int) -> Kernel:
    arguments = len(nearest.NEAREST_ARGUMENTS)
    return _compile(level, nearest.NEAREST, arguments, lambda m: nearest.build_nearest(m, level, blocks))


@functools.cache
def nearness_kernel(level: Level, blocks: int, probes: int) -> Kernel:
    arguments = len(nearest.NEARNESS_ARGUMENTS)
    return _compile(level, nearest.NEARNESS, arguments, lambda m: nearest.build_nearness(m, level, blocks, probes))


@functools.cache
def nearest_in_groups_kernel(level: Level, blocks: int) -> Kernel:
    arguments = len(nearest.IN_GROUPS_ARGUMENTS)
    return _compile(level, nearest.IN_GROUPS, arguments, lambda m: nearest.build_nearest_in_groups(m, level, blocks))


@functools.cache
def compress_kernel(level: Level, bits: int) -> Kernel:
    return _compile(level, compress.NAME, len(compress.ARGUMENTS), lambda m: compress.build(m, level, bits))


def _compile(level: Level, name: str, arguments: int, build: Callable[[ir.Module], None]) -> Kernel:
    module = ir.Module(name)
    module.triple = binding.get_process_triple()
    build(module)
    with _compiling:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_triple(module.triple)
        machine = target.create_target_machine(features=level.features, opt=3)
        parsed = binding.parse_assembly(str(module))
        parsed.verify()
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(parsed, passes)
        engine = binding.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        _engines.append(engine)
        address = engine.get_function_address(name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)
