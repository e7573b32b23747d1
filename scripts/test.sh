#!/bin/bash
# Everything that one machine can test, suite by suite, with counts and minutes; with the argument
# `over-containerd`, the end-to-end tests once more over an existing containerd (`POUCH_CONTAINERD`,
# or the one in PATH) and what else takes its time there. `POUCH_OTHER_CONTAINERDS` are paths of
# further containerds.
#
# A test that cannot run here prints a line with "skipped" and passes; it is counted as skipped.
# The last line is `pouch: N passed, N failed, N skipped`.
set -u
cd "$(dirname "$0")/.."

logs=target/test-logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
began=$SECONDS
bin=$PWD/target/x86_64-unknown-linux-gnu/debug

minutes() { printf '%d.%d min' $(($1 / 60)) $(($1 % 60 / 6)); }

# A check that is right or wrong as a whole.
check() { # name command…
    local name=$1 start=$SECONDS
    shift
    if "$@" > "$logs/$name.log" 2>&1; then
        passed=$((passed + 1))
        echo "$name: 1 passed, 0 failed, 0 skipped ($(minutes $((SECONDS - start))))"
    else
        failed=$((failed + 1))
        tail -n 60 "$logs/$name.log"
        echo "$name: 0 passed, 1 failed, 0 skipped ($(minutes $((SECONDS - start))))"
        return 1
    fi
}

# A suite of Rust tests. --show-output, so that the reasons of skipped tests are seen.
suite() { # name command…
    local name=$1 start=$SECONDS status=0 p f s
    shift
    "$@" > "$logs/$name.log" 2>&1 || status=$?
    # Totals of each test program, and in the output of passed tests one line per skipped one. A
    # test may skip a part of itself only: only lines that begin so are whole tests.
    read -r p f s < <(awk '
        /^test result:/ { p += $4; f += $6; s += $8 }
        /^---- .* stdout ----$/ { fresh = 1; next }
        fresh && /^(skipped: |not root|.*: not installed, skipped)/ { p--; s++; fresh = 0 }
        /^$/ { fresh = 0 }
        END { print p + 0, f + 0, s + 0 }' "$logs/$name.log")
    # A test that fails among others may have met their load: it gets one more try, alone, and is
    # named. What fails twice has failed.
    local names
    mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$logs/$name.log" | sort -u)
    if [ "$status" -ne 0 ] && [ "${#names[@]}" -gt 0 ] && [ "${#names[@]}" -le 5 ]; then
        local again=()
        for word in "$@"; do
            case $word in --test-threads=*) ;; *) again+=("$word") ;; esac
        done
        if "${again[@]}" --test-threads=1 --exact "${names[@]}" > "$logs/$name.again.log" 2>&1; then
            printf 'passed alone only: %s\n' "${names[@]}"
            p=$((p + f)) f=0 status=0
        else
            cat "$logs/$name.again.log" >> "$logs/$name.log"
        fi
    fi
    if [ "$status" -ne 0 ]; then
        # What failed, or why it did not even build.
        awk '/^failures:$/ { on = 1 } on { print } /^test result:/ { on = 0 }' "$logs/$name.log" |
            tail -n 300
        grep -E '^error' -A 12 "$logs/$name.log" | head -n 80
        [ "$f" -gt 0 ] || f=1
    fi
    grep -hE '^(skipped: |.*: not installed, skipped)' "$logs/$name.log" | sort | uniq -c | sort -rn
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    echo "$name: $p passed, $f failed, $s skipped ($(minutes $((SECONDS - start))))"
}

# The end-to-end tests over a containerd of each test's own.
over() { # name filter…
    local name=$1
    shift
    POUCH_E2E_BACKEND=remote suite "over-$name" cargo test -p pouch-e2e --test e2e -- \
        --show-output --test-threads=4 "$@"
}

finish() {
    echo "all: $(minutes $((SECONDS - began)))"
    echo "pouch: $passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}

check format cargo fmt --all --check
check lints cargo clippy --workspace --all-targets -- -D warnings
# Tests start these programs; built here once, so that no test waits for a compiler.
check build cargo build --workspace --bins || finish
check build-tests cargo test --workspace --no-run || finish
if command -v cargo-deny > /dev/null; then check deny cargo deny --offline check; fi
export POUCH_BIN_DIR=$bin
# The whole of what follows, or only what `make test-full` has beside it.
if [ "${1-}" = over-containerd ]; then
    # Tests of images and registries never reach the backend.
    over containerd-all --skip images:: --skip cli_images:: --skip pull_faults:: --skip mirrors:: \
        --skip policy:: --skip bad_images:: --skip cli_login:: --skip programs::
    POUCH_TEST_MANY=${POUCH_TEST_MANY:-1000} suite many-containers \
        cargo test -p pouch-e2e --test remote -- --show-output many::
    # Set POUCH_OLDER_PROGRAMS to a directory with the programs of an earlier build.
    suite older-programs cargo test -p pouch-e2e --test remote -- --show-output versions::
    for other in ${POUCH_OTHER_CONTAINERDS-}; do
        export POUCH_CONTAINERD=$other
        suite "backend-over-$(basename "$(dirname "$other")")" \
            cargo test -p pouch-containerd --test remote -- --show-output
        suite "remote-over-$(basename "$(dirname "$other")")" \
            cargo test -p pouch-e2e --test remote -- --show-output --test-threads=3
    done
    finish
fi
suite units cargo test --workspace --lib --bins --no-fail-fast -- --show-output
suite crates cargo test --workspace --exclude pouch-e2e --test '*' --no-fail-fast -- --show-output
suite end-to-end cargo test -p pouch-e2e --no-fail-fast -- --show-output --test-threads=4
# Over a containerd, of the same tests those whose path through the backend is the longest.
over containerd run:: exec:: attach:: logs:: restart_policy::
finish
