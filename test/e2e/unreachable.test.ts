/** Commands while the pageserver does not run, does not answer, or does not know us. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import { inParallel, refusal, refused } from "./refusals.ts";
import { Lab, killAndWait, listenSomewhere, send } from "./support.ts";

test(
  "a pageserver that does not run, does not answer, or wants another token",
  { timeout: 300_000 },
  async (t) => {
    await using lab = await Lab.init("main");
    const uri = await lab.ok("pg", "url", "main");
    await lab.ok("branch", "dev");
    await lab.ok("pg", "create", "idle", "--branch", "dev", "--no-start");
    const needServer: string[][] = [
      ["branch"],
      ["branch", "new"],
      ["branch", "-d", "dev"],
      ["pg", "create", "new", "--branch", "dev"],
      ["pg", "start", "idle"],
    ];

    await t.test("wrong token", async () => {
      const path = join(lab.neonDirectory, "config.toml");
      const text = readFileSync(path, "utf8");
      writeFileSync(path, text.replace(/auth_token = .*/, 'auth_token = "0123456789abcdef0123456789abcdef"'));
      try {
        const token = refusal(
          6,
          "unreachable",
          /refuses our token/,
          /pageserver\.auth_token.*neon stop.*neon start/,
        );
        await inParallel(needServer, (args) => refused(lab, args, token));
        assert.equal((await lab.run("pg", "list")).code, 0, "computes can be listed all the same");
      } finally {
        writeFileSync(path, text);
      }
    });

    await t.test("not answering", async () => {
      const pid = await lab.pageserverPid();
      send(pid, "SIGSTOP");
      try {
        const silent = {
          ...refusal(11, "timeout", /has not answered for \d+ s/, /neon status.*neon logs/),
          together: true,
        };
        const unclean = { ...silent, hint: /neon start.*neon pg stop main --immediate/ };
        await Promise.all([
          // Those that take no lock, for which the second of two at a time would wait.
          ...needServer.filter(([topic]) => topic === "branch").map((args) => refused(lab, args, silent)),
          refused(lab, ["pg", "stop", "main"], unclean),
        ]);
        const status = await lab.run("status");
        assert.equal(status.code, 0);
        assert.match(status.stdout, /pageserver {2}not answering/);
        assert.match(
          status.stderr,
          /COMMIT waits on main until the pageserver is back.*neon logs.*neon stop --force/,
        );
        assert.equal(((await lab.json("status"))["pageserver"] as Json)["state"], "not_answering");
      } finally {
        send(pid, "SIGCONT");
      }
      assert.equal((await lab.branches()).size, 2);
    });

    await t.test("not running", async () => {
      const pid = await lab.pageserverPid();
      await killAndWait(pid);
      const gone = refusal(6, "unreachable", /no pageserver answers at http:/, /neon start/);
      await inParallel(needServer, (args) => refused(lab, args, gone));
      const unclean = refusal(
        6,
        "unreachable",
        /compute "main" cannot be stopped cleanly/,
        /neon start.*neon pg stop main --immediate/,
      );
      await refused(lab, ["pg", "stop", "main"], unclean);
      await refused(lab, ["pg", "restart", "main"], unclean);
      assert.equal(await lab.value(uri, "select 1"), 1, "it still runs");
      const status = await lab.run("status");
      assert.equal(status.code, 0);
      assert.match(
        status.stderr,
        /COMMIT waits on main until the pageserver is back\. Start the pageserver with `neon start`/,
      );
    });

    await t.test("its port is taken", async () => {
      const address = (await lab.ok("config", "get", "pageserver.listen")).split(":");
      const { server } = await listenSomewhere(Number(address[1]));
      try {
        const taken = refusal(
          9,
          "resource",
          /port \d+, where the pageserver should listen, is in use/,
          /neon config set pageserver\.listen 127\.0\.0\.1:\d+/,
        );
        await refused(lab, ["start"], taken);
        const other = refusal(6, "unreachable", /./, /neon (config set pageserver\.listen|status)/);
        await refused(lab, ["branch"], other);
      } finally {
        server.close();
      }
      await lab.ok("start");
      assert.equal((await lab.branches()).size, 2);
      await lab.ok("pg", "stop", "main");
    });
  },
);
