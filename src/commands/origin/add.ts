import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class OriginAdd extends BaseCommand {
  static override summary = "Give another pageserver a name, to push to it and pull from it.";
  static override description =
    "URI is postgresql://[user[:password]@]host[:port] with the parameters sslmode, sslrootcert, passfile and " +
    "connect_timeout, as libpq knows them; user is neon and port 64000 unless given. A password is better left out of it: " +
    "$PGPASSWORD, or a line in ~/.pgpass (or the file named by passfile or $PGPASSFILE), serve as well and do not end " +
    "up in the history of the shell.\n\n" +
    "The other pageserver is not asked; `neon origin list` shows whether it answers.";
  static override examples = [
    "<%= config.bin %> origin add staging postgresql://ada@db.example.com:64000",
    '<%= config.bin %> origin add lab "postgresql://ada@lab.example.com?sslmode=verify-full&sslrootcert=/etc/neon/lab.crt"',
  ];
  static override args = {
    name: stringArg({ description: "What it is to be called here.", required: true }),
    uri: stringArg({ description: "Where it listens.", required: true }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(OriginAdd);
    const { addOrigin, checkOriginName } = await import("../../repository/origins.ts");
    const { checkUri } = await import("../shared/origins.ts");
    checkOriginName(args.name);
    const { stored, uri, notes } = checkUri(args.uri);
    const repository = await this.findRepository(flags);
    await addOrigin(repository, args.name, stored);
    this.print(`Added origin ${args.name}: ${uri}`);
    for (const note of notes) this.caution(note);
    this.say(`What is there: neon fetch ${args.name}. Send a branch: neon push main ${args.name}`);
    return { name: args.name, uri };
  }
}
