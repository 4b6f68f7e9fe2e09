# What people run; `just check` is what CI runs. Every recipe is one command that works without `just`, too.

# Serve a tiny model on the CPU, with nothing to download.
run *ARGS:
    cargo run --release -- serve {{ARGS}}

# All tests.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Speed of the network, beside the machine's ceilings.
bench:
    cargo bench --package inkstone-model --package inkstone-interface

# Formatting, lints, tests, docs.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Lint the protocol (needs npm).
proto-lint:
    cd proto && npx --yes @bufbuild/buf lint
