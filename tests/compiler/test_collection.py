"""The garbage collector rests during a compilation, and is left as it was found."""

import gc
import threading

import pytest

from einfall.compiler.collection import without_collection


def test_it_rests_and_comes_back():
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), without_collection():
        assert not gc.isenabled()
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()


def test_a_caller_without_collector_keeps_it_so():
    gc.disable()
    try:
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_comes_back_when_the_last_thread_has_left():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with without_collection():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with without_collection():
        thread.start()
        assert inside.wait(10)
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()
