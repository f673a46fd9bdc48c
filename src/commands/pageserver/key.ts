import { existsSync } from "node:fs";
import { join } from "node:path";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";
import { PRIVATE_KEY_FILE, PUBLIC_KEY_FILE } from "../shared/token-keys.ts";

export default class PageserverKey extends BaseCommand {
  static override summary = "Make the key pair that tokens are signed and checked with.";
  static override description =
    "Writes both keys (Ed25519) beside the pageserver's data and sets pageserver.jwt_public_key. `neon pageserver token` signs " +
    "tokens with the private one, the pageserver checks them with the public one.\n\n" +
    "Side effects: files auth_private_key.pem (secret) and auth_public_key.pem, one setting. A pageserver that checks tokens " +
    "already takes the new key at once, and those made before hold no longer; another one from its next start on.";
  static override examples = ["<%= config.bin %> pageserver key", "<%= config.bin %> pageserver key --force"];
  static override flags = {
    force: boolean({ default: false, char: "f", summary: "Replace the keys that there are." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(PageserverKey);
    const repository = await this.findRepository(flags);
    const privatePath = join(repository.pageserverDirectory, PRIVATE_KEY_FILE);
    const publicPath = join(repository.pageserverDirectory, PUBLIC_KEY_FILE);
    const { jwtPublicKey } = repository.config.pageserver;
    refuseToReplace([jwtPublicKey ?? publicPath, publicPath, privatePath], flags.force);
    const { makeKeyPair } = await import("../../client/jwt.ts");
    const { writeFileAtomically } = await import("../../repository/atomic-file.ts");
    const { publicPem, privatePem } = makeKeyPair();
    await writeFileAtomically(privatePath, privatePem, 0o600);
    await writeFileAtomically(publicPath, publicPem, 0o644);
    if (jwtPublicKey !== publicPath) {
      await repository.changeSetting("pageserver.jwt_public_key", publicPath);
      this.say("It holds from the next start on: `neon stop`, `neon start`.");
    }
    this.print(`Public key: ${publicPath}`);
    this.say("Make a token: `neon pageserver token --scope tenant`");
    return { public_key: publicPath, private_key: privatePath };
  }
}

function refuseToReplace(paths: readonly string[], force: boolean): void {
  const found = paths.find((path) => existsSync(path));
  if (found === undefined || force) return;
  throw new NeonError(ErrorCode.Exists, `there is a key already: ${found}`, {
    hint: "--force replaces it; tokens that were made before do not hold any more then.",
  });
}
