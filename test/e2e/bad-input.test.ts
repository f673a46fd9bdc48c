/**
 * Everything that can be asked for wrongly, or at the wrong moment: a clear error with the next step, the same exit code
 * in text and JSON, and afterwards everything as before.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Cli } from "./cli.ts";
import { inParallel, refusal, refused } from "./refusals.ts";
import { Lab, listenSomewhere } from "./support.ts";

/** Every command that works on a repository, with arguments that would be right in one. */
const ALL: readonly string[][] = [
  ["status"],
  ["start"],
  ["start", "--all"],
  ["stop"],
  ["logs"],
  ["branch"],
  ["branch", "dev"],
  ["branch", "-d", "dev"],
  ["branch", "-m", "dev", "other"],
  ["pg", "create", "main"],
  ["pg", "start", "main"],
  ["pg", "stop", "main"],
  ["pg", "stop", "--all"],
  ["pg", "restart", "main"],
  ["pg", "destroy", "main"],
  ["pg", "list"],
  ["pg", "url", "main"],
  ["pg", "psql", "main"],
  ["tenant", "list"],
  ["config", "list"],
  ["config", "get", "pg_version"],
  ["config", "set", "pg_bin", "/bin"],
];

test("no repository here", { timeout: 300_000 }, async () => {
  await using cli = new Cli();
  const missing = refusal(3, "not_found", /^no neon repository in .* or above it$/, /neon init/);
  await inParallel(ALL, (args) => refused(cli, args, missing));
  const elsewhere = refusal(
    3,
    "not_found",
    /no neon repository in \/nonexistent\/x or above it/,
    /neon init/,
  );
  await refused(cli, ["status", "--repo", "/nonexistent/x"], elsewhere);
  await refused(cli, ["status"], elsewhere, { env: { NEON_REPO_DIR: "/nonexistent/x" } });
  assert.deepEqual(readdirSync(cli.directory), []);
});

test("`.neon` is a file, or a directory of something else", { timeout: 300_000 }, async () => {
  await using cli = new Cli();
  const file = join(cli.directory, "tool");
  mkdirSync(file);
  writeFileSync(join(file, ".neon"), '{"orgId":"org-x"}\n');
  const foreign = join(cli.directory, "foreign");
  mkdirSync(join(foreign, ".neon"), { recursive: true });
  writeFileSync(join(foreign, ".neon", "data"), "x");
  for (const [directory, message] of [
    [file, /\.neon is a file, so another tool/],
    [foreign, /\.neon exists, but has no config\.toml/],
  ] as const) {
    const options = { cwd: directory };
    await refused(cli, ["init"], refusal(5, "conflict", message, /neon init DIR/), options);
    await refused(cli, ["init", directory], refusal(5, "conflict", message, /neon init DIR/));
    const missing = refusal(3, "not_found", message, /neon init DIR.*--repo DIR/);
    await inParallel(ALL.slice(0, 10), (args) => refused(cli, args, missing, options));
  }
});

test("unknown commands and wrong or missing arguments", { timeout: 300_000 }, async () => {
  await using cli = new Cli();
  const unknown: [string[], RegExp][] = [
    [["brnch"], /neon branch/],
    [["pg", "crate", "x"], /neon pg create/],
    [["pg", "wibble"], /neon pg --help/],
    [["xyzzy", "--foo"], /neon --help/],
  ];
  await inParallel(unknown, ([args, hint]) =>
    refused(cli, args, refusal(127, "unknown_command", /^there is no command "/, hint)),
  );
  const usage: [string[], RegExp, RegExp][] = [
    [["branch", "-d"], /which branch/, /neon branch --help/],
    [["branch", "-d", "a", "b"], /one name at a time/, /neon branch --help/],
    [["branch", "-m", "a"], /new name/, /neon branch --help/],
    [["branch", "-m", "-d", "a"], /--delete.*--move|--move.*--delete/, /neon branch --help/],
    [["branch", "a", "b", "c"], /unexpected argument: c/, /neon branch --help/],
    [["branch", "--frob"], /frob/, /neon branch --help/],
    [["pg", "start"], /NAME or --all/, /neon pg list/],
    [["pg", "start", "x", "--all"], /NAME or --all/, /neon pg list/],
    [["pg", "stop"], /NAME or --all/, /neon pg list/],
    [["pg", "restart"], /missing 1 required arg: name/, /neon pg restart --help/],
    [["pg", "destroy"], /missing 1 required arg: name/, /neon pg destroy --help/],
    [["pg", "url"], /missing 1 required arg: name/, /neon pg url --help/],
    [["pg", "psql"], /missing 1 required arg: name/, /neon pg psql --help/],
    [["pg", "create", "x", "--port", "many"], /integer.*many/i, /neon pg create --help/],
    [["pg", "create", "x", "--commit", "maybe"], /--commit=maybe.*remote, local/, /neon pg create --help/],
    [["init", "--pg-version", "9"], /14/, /neon init --help/],
    [["init", "--pg-version", "new"], /integer.*new/i, /neon init --help/],
    [["config", "get"], /missing 1 required arg: key/, /neon config get --help/],
    [["config", "set", "pg_bin"], /a value, or --unset/, /neon config set --help/],
  ];
  await inParallel(usage, ([args, message, hint]) => refused(cli, args, refusal(2, "usage", message, hint)));
  assert.deepEqual(readdirSync(cli.directory), []);
});

test("Postgres binaries are missing or of another major version", { timeout: 300_000 }, async (t) => {
  await using cli = new Cli();
  const hint = /postgres and initdb/;
  const none = refusal(
    10,
    "postgres",
    /NEON_PG_BIN does not lead to a usable Postgres: there is no program postgres/,
    hint,
  );
  await refused(cli, ["init"], none, { env: { NEON_PG_BIN: "/nonexistent" } });
  const flag = refusal(10, "postgres", /--pg-bin does not lead to a usable Postgres/, hint);
  await refused(cli, ["init", "--pg-bin", "/nonexistent"], flag);
  await refused(cli, ["init", "new", "--pg-bin", "/nonexistent"], flag);
  const broken = join(cli.directory, "broken");
  mkdirSync(broken);
  for (const name of ["postgres", "initdb"]) {
    writeFileSync(join(broken, name), "#!/bin/sh\necho 'out of order' >&2; exit 3\n", { mode: 0o755 });
  }
  const useless = refusal(10, "postgres", /broken\/postgres does not run: .*out of order/s, hint);
  await refused(cli, ["init", "new", "--pg-bin", broken], useless);
  const old = "/usr/lib/postgresql/15/bin";
  if (!existsSync(join(old, "postgres"))) return t.diagnostic("no Postgres 15 here: not tried");
  const other = refusal(10, "postgres", /leads to Postgres 15\.\d+ .* needs version 17/, /Postgres 17/);
  await refused(cli, ["init", "new"], other, { env: { NEON_PG_BIN: old } });
  await refused(cli, ["init", "new", "--pg-bin", old], other);
  return undefined;
});

/** One repository for everything that is refused while all is well: compute main, branch dev with a child. */
test("in a repository that is well", { timeout: 300_000 }, async (t) => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t as select 1 as v");
  await lab.ok("branch", "dev");
  await lab.ok("branch", "dev/child", "dev");
  await lab.ok("pg", "create", "idle", "--branch", "dev/child", "--no-start");

  await t.test("already initialized", async () => {
    const exists = refusal(4, "exists", /\.neon is a neon repository already$/, /neon status.*neon init DIR/);
    await refused(lab, ["init"], exists);
    await refused(lab, ["init", "."], exists);
    await refused(lab, ["init", lab.directory], exists, { cwd: "/" });
    await refused(lab, ["init", lab.neonDirectory], exists);
  });

  await t.test("a branch or compute that exists already", async () => {
    const branch = refusal(4, "exists", /branch "dev".*exists|exists.*"dev"|there is a branch "dev"/, /name/);
    await refused(lab, ["branch", "dev"], branch);
    await refused(lab, ["branch", "dev", "main"], branch);
    await refused(lab, ["branch", "-m", "main", "dev"], branch);
    const compute = refusal(
      4,
      "exists",
      /there is a compute "main" already, on branch "main"/,
      /neon pg start main/,
    );
    await refused(lab, ["pg", "create", "main"], compute);
    await refused(lab, ["pg", "create", "main", "--branch", "dev"], compute);
  });

  await t.test("a branch or compute that does not exist", async () => {
    const branch = refusal(3, "not_found", /there is no branch "dvo?"/, /[Dd]id you mean "dev"|neon branch/);
    const withoutBranch: string[][] = [
      ["branch", "new", "dv"],
      ["branch", "new", "dv@0/1000000"],
      ["branch", "new", "dv@10m"],
      ["branch", "-d", "dv"],
      ["branch", "-m", "dv", "new"],
      ["pg", "create", "dv"],
      ["pg", "create", "new", "--branch", "dv"],
      ["pg", "create", "new", "--lsn", "dv@10m"],
    ];
    for (const args of withoutBranch) await refused(lab, args, branch);
    const timeline = "0123456789abcdef0123456789abcdef";
    const unknown = refusal(3, "not_found", new RegExp(timeline), /neon branch --json/);
    await refused(lab, ["branch", "new", timeline], unknown);
    await refused(lab, ["pg", "create", "new", "--lsn", `${timeline}@0/1000000`], unknown);
    const compute = refusal(3, "not_found", /there is no compute "nix"/, /neon pg list.*neon pg create nix/);
    for (const verb of ["stop", "restart", "destroy", "url", "psql"])
      await refused(lab, ["pg", verb, "nix"], compute);
    await refused(lab, ["logs", "nix"], compute);
    const neither = refusal(3, "not_found", /there is no compute and no branch "nix"/, /neon pg list/);
    await refused(lab, ["pg", "start", "nix"], neither);
    const silent = refusal(3, "not_found", /compute "idle" has no log yet/, /neon pg start idle/);
    await refused(lab, ["logs", "idle"], silent);
    const tenant = refusal(3, "not_found", /tenant 0123456789abcdef0123456789abcdef/, /neon tenant list/);
    await refused(lab, ["branch", "--tenant-id", timeline], tenant);
  });

  await t.test("names that are no valid refs", async () => {
    // What git forbids is tried one by one elsewhere; here, that nothing of it gets through.
    const names = [
      "a..b",
      "a b",
      ".hidden",
      "a/",
      "a.lock",
      "a~1",
      "a@b",
      "",
      "f".repeat(32),
      "n".repeat(201),
    ];
    const bad = refusal(2, "usage", /is no valid name for a branch: /, /letters, digits/);
    await inParallel(names, (name) => refused(lab, ["branch", name, "main"], bad));
    await refused(lab, ["branch", "-m", "dev", "a..b"], bad);
    const compute = { ...bad, message: /is no valid name for a compute: / };
    await inParallel(["a..b", "../../etc"], async (name) => {
      await refused(lab, ["pg", "create", name, "--branch", "main"], compute);
      await refused(lab, ["pg", "stop", name], compute);
    });
    assert.equal((await lab.branches()).size, 3);
  });

  await t.test("points that do not parse, lie in the future, or before the history", async () => {
    const accepted = /BRANCH@LSN \(main@0\/1A2B3C8\).*BRANCH@TIME.*BRANCH@AGE.*timeline id/;
    const unreadable = ["main@", "main@yesterday", "main@0/XYZ", "main@2026-02-30T10:00:00Z", "main@10y"];
    unreadable.push("@0/1", "main@@0/1", "main@-5m", "main@FFFFFFFF/FFFFFFFF");
    const asPoint = (point: string, index: number): string[] =>
      index % 2 === 0 ? ["branch", "new", point] : ["pg", "create", "new", "--lsn", point];
    const wrong = refusal(2, "usage", /is no point in time: /, accepted);
    await inParallel(unreadable.map(asPoint), (args) => refused(lab, args, wrong));
    const hours = new Date(Date.now() + 3_600_000).toISOString();
    const future = refusal(3, "not_found", /lies in the future/, /\S/);
    const before = refusal(
      3,
      "not_found",
      /lies before the history.* which begins at /,
      /Choose an? (LSN|time) from \S+ on/,
    );
    for (const [point, expected] of [
      ["main@2/0", future],
      [`main@${hours}`, future],
      ["main@0/1000", before],
      ["main@0/0", before],
      ["main@52w", before],
      ["main@1999-12-31T23:59:59Z", before],
      ["dev/child@0/1000", before],
    ] as const) {
      await refused(lab, ["branch", "new", point], expected);
      await refused(lab, ["pg", "create", "new", "--lsn", point], expected);
    }
    const two = refusal(2, "usage", /--branch is dev, but --lsn names main/, /one place/);
    await refused(lab, ["pg", "create", "new", "--branch", "dev", "--lsn", "main@0/1500000"], two);
  });

  await t.test("a second read-write compute on a branch", async () => {
    const second = refusal(
      5,
      "conflict",
      /branch "main" has a compute that writes to it already: "main", which runs/,
      /neon pg stop main.*neon branch NAME main/,
    );
    await refused(lab, ["pg", "create", "second", "--branch", "main"], second);
    await lab.ok("pg", "create", "second", "--branch", "main", "--no-start");
    await refused(lab, ["pg", "start", "second"], second);
    await lab.ok("pg", "destroy", "second");
  });

  await t.test("deleting a branch with children or with a compute", async () => {
    const children = refusal(
      5,
      "conflict",
      /branch "dev" has a child: dev\/child/,
      /[Dd]elete the children first/,
    );
    await refused(lab, ["branch", "-d", "dev"], children);
    const compute = refusal(
      5,
      "conflict",
      /branch "main" is in use by compute "main"/,
      /neon pg destroy main/,
    );
    await refused(lab, ["branch", "-d", "main"], compute);
    const idle = refusal(
      5,
      "conflict",
      /branch "dev\/child" is in use by compute "idle"/,
      /neon pg destroy idle/,
    );
    await refused(lab, ["branch", "-d", "dev/child"], idle);
  });

  await t.test("a compute that runs is not destroyed, one that does not has no prompt", async () => {
    const running = refusal(5, "conflict", /compute "main" is running/, /neon pg stop main.*--force/);
    await refused(lab, ["pg", "destroy", "main"], running);
    const stopped = refusal(5, "conflict", /compute "idle" is stopped/, /neon pg start idle/);
    await refused(lab, ["pg", "psql", "idle", "-c", "select 1"], stopped);
    const moved = refusal(5, "conflict", /compute "main" runs on port \d+ already/, /neon pg stop main/);
    await refused(lab, ["pg", "start", "main", "--port", "1"], moved);
  });

  await t.test("a port in use, or none", async () => {
    const { server, port } = await listenSomewhere();
    try {
      const taken = refusal(
        9,
        "resource",
        new RegExp(`port ${port} of 127\\.0\\.0\\.1 is in use`),
        /another port, for example \d+/,
      );
      await refused(lab, ["pg", "create", "dev", "--port", String(port)], taken);
      await refused(lab, ["pg", "start", "idle", "--port", String(port)], taken);
      await refused(lab, ["pg", "start", "dev", "--port", String(port)], taken);
      const own = Number(new URL(uri).port);
      await refused(lab, ["pg", "create", "dev", "--port", String(own)], { ...taken, message: /is in use/ });
    } finally {
      server.close();
    }
    for (const none of ["0", "65536", "-1"]) {
      await refused(
        lab,
        ["pg", "create", "dev", `--port=${none}`],
        refusal(2, "usage", /port/, /1 and 65535|--help/),
      );
    }
  });

  await t.test("binaries that are gone or of another version", async () => {
    const none = refusal(
      10,
      "postgres",
      /NEON_PG_BIN does not lead to a usable Postgres/,
      /postgres and initdb/,
    );
    await refused(lab, ["pg", "start", "idle"], none, { env: { NEON_PG_BIN: "/nonexistent" } });
    await refused(lab, ["pg", "create", "dev"], none, { env: { NEON_PG_BIN: "/nonexistent" } });
    const relative = refusal(2, "usage", /pg_bin.*absolute path/, /\S/);
    await refused(lab, ["config", "set", "pg_bin", "not/absolute"], relative);
    await lab.ok("config", "set", "pg_bin", "/nonexistent");
    const configured = { ...none, message: /pg_bin in the config does not lead to a usable Postgres/ };
    await refused(lab, ["pg", "start", "idle"], configured);
    await lab.ok("config", "set", "pg_bin", "--unset");
    const old = "/usr/lib/postgresql/15/bin";
    if (!existsSync(join(old, "postgres"))) return;
    const other = refusal(10, "postgres", /leads to Postgres 15\.\d+ .* needs version 17/, /Postgres 17/);
    await refused(lab, ["pg", "start", "idle"], other, { env: { NEON_PG_BIN: old } });
    await refused(lab, ["pg", "create", "dev"], other, { env: { NEON_PG_BIN: old } });
  });

  await t.test("settings that are wrong", async () => {
    await refused(
      lab,
      ["config", "set", "pg_version", "16"],
      refusal(5, "conflict", /cannot be changed/, /neon init DIR/),
    );
    await refused(
      lab,
      ["config", "get", "no.such"],
      refusal(3, "not_found", /no setting "no\.such"/, /Settings are .*pageserver\.listen/),
    );
    const port = refusal(2, "usage", /computes\.x\.port/, /\S/);
    await refused(lab, ["config", "set", "computes.x.port", "70000"], port);
    await refused(lab, ["config", "set", "computes.x.port", "abc"], port);
    await refused(
      lab,
      ["config", "set", "pageserver.listen", "nonsense"],
      refusal(2, "usage", /HOST:PORT/, /\S/),
    );
  });

  await t.test("a config that does not parse", async () => {
    const path = join(lab.neonDirectory, "config.toml");
    const text = readFileSync(path, "utf8");
    try {
      for (const [damage, message] of [
        [`${text}\nthis is no TOML`, /config\.toml/],
        [text.replace("pg_version = 17", 'pg_version = "new"'), /pg_version/],
        [text.replace(/listen = .*/, ""), /listen/],
        ["", /default_tenant_id/],
      ] as const) {
        writeFileSync(path, damage);
        await refused(lab, ["status"], refusal(2, "usage", message, /\.neon\.example\.toml/));
        await refused(lab, ["pg", "stop", "main"], refusal(2, "usage", message, /\.neon\.example\.toml/));
      }
    } finally {
      writeFileSync(path, text);
    }
  });

  assert.deepEqual(await lab.column(uri, "select v from t"), [1], "the compute has not noticed anything");
});
