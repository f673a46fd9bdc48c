/** Another pageserver that pulls from and pushes to the one with the two tenants, with the keys of one of them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { Child, configure, readJson } from "./child.ts";
import { MASTER } from "./foreign-tokens.ts";
import { type Door, FOREIGN, type ForeignWorld, OWN, type Target, ask } from "./foreign-world.ts";
import { TOKEN, TempDirectory } from "./harness.ts";

type Command = "perform_pull" | "perform_push" | "remote_branches";

interface Transfer {
  readonly tenant: string;
  /** Here, and there. */
  readonly branch: string;
  readonly other: string;
}

class Elsewhere implements AsyncDisposable {
  readonly url: string;
  private readonly uri: string;
  private readonly world: ForeignWorld;
  private readonly stack: AsyncDisposableStack;

  private constructor(world: ForeignWorld, at: { url: string; uri: string }, stack: AsyncDisposableStack) {
    this.world = world;
    this.url = at.url;
    this.uri = at.uri;
    this.stack = stack;
  }

  static async start(world: ForeignWorld): Promise<Elsewhere> {
    await using stack = new AsyncDisposableStack();
    const directory = stack.use(new TempDirectory());
    const workdir = configure(directory, 'listen_libpq = "127.0.0.1:0"\n');
    const url = await stack.use(new Child("real-pageserver.ts", workdir)).ready();
    const address = String(readJson(join(workdir, "pageserver.pid"))?.["listen_libpq"]);
    const uri = `postgresql://neon:${TOKEN}@${address}?sslmode=disable`;
    return new Elsewhere(world, { url, uri }, stack.move());
  }

  /** What the commands tell; throws what they fail with. */
  async run(command: Command, door: Door, { tenant, branch, other }: Transfer): Promise<string> {
    const origin = { ...this.world.origin, user: door.user, password: door.password };
    await using client = await connectLibpq(parseLibpqUri(this.uri));
    if (command === "remote_branches") {
      const { rows } = await client.query(`${command} ${JSON.stringify({ tenant_id: tenant, origin })}`);
      return String(rows[0]?.[0]);
    }
    const request = { tenant_id: tenant, branch, other, dry_run: false, origin };
    let told = "";
    for await (const line of client.copyOut(`${command} ${JSON.stringify(request)}`)) {
      told += Buffer.from(line).toString();
    }
    return told;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

/** Without what is random in it, and with the parts of the target replaced. */
async function refusal(
  world: ForeignWorld,
  target: Target,
  work: Promise<string>,
): Promise<[string, string]> {
  const error: unknown = await work.then(
    (told) => assert.fail(`let through: ${told}`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof NeonError, String(error));
  const { code, message, hint, data } = error;
  const text = JSON.stringify([message, hint, data]);
  world.checkSilent(text, JSON.stringify(target), "transfer");
  return [code, world.normalized(text, target)];
}

export async function transfers(world: ForeignWorld, doors: readonly Door[]): Promise<void> {
  const { foreign, madeUp } = world;
  await using elsewhere = await Elsewhere.start(world);
  // With the right key all of it works.
  const all = { tenant: FOREIGN, branch: "copy", other: foreign.branch };
  assert.match(await elsewhere.run("remote_branches", MASTER, all), /secret-branch/);
  assert.match(await elsewhere.run("perform_pull", MASTER, all), /"result":"created"/);
  const before = await world.state();
  const copies = await ask(elsewhere.url, "GET", "/v1/tenant");
  for (const door of doors) {
    const compared = async (
      command: Command,
      make: (target: Target) => Transfer,
      [real, other]: readonly [Target, Target],
    ): Promise<string> => {
      const [code, one] = await refusal(world, real, elsewhere.run(command, door, make(real)));
      const [, two] = await refusal(world, other, elsewhere.run(command, door, make(other)));
      assert.equal(one, two, `${door.name}: ${command}`);
      return code;
    };
    const list = ({ tenant }: Target): Transfer => ({ tenant, branch: "", other: "" });
    const pull = ({ tenant, branch }: Target): Transfer => ({ tenant, branch: "new", other: branch });
    assert.equal(await compared("remote_branches", list, [foreign, madeUp]), ErrorCode.Declined);
    assert.equal(await compared("perform_pull", pull, [foreign, madeUp]), ErrorCode.Declined);
    const within = [world.own(foreign), world.own(madeUp)] as const;
    assert.equal(await compared("perform_pull", pull, within), ErrorCode.NotFound);
    // The copy is of the same history, so nothing but the key is in the way of a push.
    for (const other of ["main", foreign.branch, "mine"]) {
      const push = elsewhere.run("perform_push", door, { tenant: FOREIGN, branch: "copy", other });
      const target = { ...foreign, branch: other };
      assert.equal((await refusal(world, target, push))[0], ErrorCode.Declined, other);
    }
    const listed = await elsewhere.run("remote_branches", door, { tenant: OWN, branch: "", other: "" });
    world.checkSilent(listed, OWN, "remote_branches");
  }
  assert.deepEqual(await world.state(), before);
  assert.deepEqual(await ask(elsewhere.url, "GET", "/v1/tenant"), copies);
}
