/** `neon init --pg-version`: a repository of another major version than the default one, as a user makes it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { Cli } from "./cli.ts";

/** The oldest one, and the one that would have page checksums if initdb were not told. */
const MAJORS = [14, 18].filter((major) => EMBEDDED_MAJORS.includes(major));

for (const major of MAJORS) {
  test(`a repository of major version ${major}`, { timeout: 300_000 }, async () => {
    await using cli = new Cli();
    const init = await cli.json("init", "--pg-version", String(major));
    assert.equal(init["pg_version"], major, JSON.stringify(init));
    const uri = await cli.ok("pg", "create", "main");
    assert.match(String(await cli.value(uri, "show server_version")), new RegExp(`^${major}\\.`));
    assert.equal(await cli.value(uri, "show data_checksums"), "off");
    const locale =
      "select datcollate || ' ' || pg_encoding_to_char(encoding) from pg_database where datname = 'postgres'";
    assert.equal(await cli.value(uri, locale), "C UTF8");
    await cli.value(uri, "create table t as select generate_series(1, 1000) i");
    await cli.ok("branch", "dev");
    await cli.value(uri, "drop table t");
    const dev = await cli.ok("pg", "create", "dev");
    assert.equal(await cli.value(dev, "select count(*)::int from t"), 1000);
    await cli.ok("pg", "restart", "main");
    assert.equal(await cli.value(uri, "select count(*)::int from pg_tables where tablename = 't'"), 0);
    const doctor = await cli.ok("doctor");
    assert.match(doctor, new RegExp(`ok +postgres +Postgres ${major}\\.`));
    for (const name of ["main", "dev"]) {
      const { stdout } = await cli.run("logs", name);
      assert.doesNotMatch(stdout, /ERROR|PANIC/, `log of ${name}`);
    }
  });
}
