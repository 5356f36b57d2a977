/*-------------------------------------------------------------------------
 *
 * join_schema.c
 *		The donor's schema, created on a node that joins.
 *
 * pg_dump, which is installed beside the server, writes it; its statements are
 * executed here one by one.  What exists already stays as it is: whether tables
 * are the same on both sides is checked afterwards.  What belongs to cozesync
 * (its triggers above all) is left out, since joining brings its own.
 *
 * All in the transaction of the caller.  A password never shows in the process
 * list: it goes through the environment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "group/join.h"
#include "group/step.h"

typedef struct SchemaCopy
{
	List	   *skipped_triggers;	/* names of cozesync's triggers */
	List	   *left_out;		/* messages, told once each */
} SchemaCopy;

/* --- running pg_dump --------------------------------------------------------------- */

static char *
find_pg_dump(void)
{
	char	   *path = psprintf("%s", my_exec_path);
	char	   *slash = strrchr(path, '/');

	if (slash != NULL)
		*slash = '\0';
	path = psprintf("%s/pg_dump", path);
	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("could not find the program pg_dump"),
				 errdetail("It is looked for beside the server's own program, as \"%s\".", path),
				 errhint("Install the client programs of this server version, or create the schema yourself and use copy_schema => false.")));
	return path;
}

/* For the shell: nothing in it has a meaning. */
static char *
quote(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '\'');
	for (const char *p = text; *p; p++)
	{
		if (*p == '\'')
			appendStringInfoString(&buf, "'\\''");
		else
			appendStringInfoChar(&buf, *p);
	}
	appendStringInfoChar(&buf, '\'');
	return buf.data;
}

static char *
read_file(FILE *file)
{
	StringInfoData buf;
	char		piece[8192];
	size_t		n;

	initStringInfo(&buf);
	while ((n = fread(piece, 1, sizeof(piece), file)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		appendBinaryStringInfo(&buf, piece, n);
	}
	return buf.data;
}

/* What the program complained about; the file goes away. */
static char *
read_complaint(const char *path)
{
	FILE	   *file = AllocateFile(path, "r");
	char	   *text = NULL;

	if (file != NULL)
	{
		text = read_file(file);
		FreeFile(file);
	}
	unlink(path);
	return text != NULL && text[0] != '\0' ? pchomp(text) : NULL;
}

static char *
run_pg_dump(const char *via, const char *snapshot)
{
	char	   *password;
	char	   *dsn = coze_peer_dsn_without_password(via, &password);
	char	   *complaints = psprintf("%s/cozesync_join.%d", DataDir, MyProcPid);
	char	   *command = psprintf("%s --schema-only --no-password --no-publications --no-subscriptions"
								   " --exclude-schema=cozesync --snapshot=%s --dbname=%s 2>%s",
								   quote(find_pg_dump()), quote(snapshot), quote(dsn),
								   quote(complaints));
	char	   *saved = getenv("PGPASSWORD") ? pstrdup(getenv("PGPASSWORD")) : NULL;
	FILE	   *pipe;
	char	   *text;
	int			status;

	if (password != NULL)
		setenv("PGPASSWORD", password, 1);
	pipe = OpenPipeStream(command, PG_BINARY_R);
	if (saved != NULL)
		setenv("PGPASSWORD", saved, 1);
	else
		unsetenv("PGPASSWORD");
	if (pipe == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not execute pg_dump: %m")));
	text = read_file(pipe);
	status = ClosePipeStream(pipe);
	complaints = read_complaint(complaints);
	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not read the schema of the other node with pg_dump"),
				 complaints ? errdetail_internal("%s", complaints) : 0));
	return text;
}

/* Commands for psql, which newer versions of pg_dump put around their output. */
static void
blank_psql_commands(char *text)
{
	for (char *line = text; line != NULL && *line;)
	{
		char	   *end = strchr(line, '\n');

		if (strncmp(line, "\\restrict ", 10) == 0 || strncmp(line, "\\unrestrict ", 12) == 0)
			memset(line, ' ', end != NULL ? (size_t) (end - line) : strlen(line));
		line = end != NULL ? end + 1 : NULL;
	}
}

/* --- executing ------------------------------------------------------------------------ */

static bool
in_list(List *strings, const char *text)
{
	ListCell   *cell;

	foreach(cell, strings)
		if (strcmp(lfirst(cell), text) == 0)
			return true;
	return false;
}

/* Does the statement make or alter something of cozesync's? */
static bool
is_ours(SchemaCopy *copy, Node *statement)
{
	if (IsA(statement, CreateTrigStmt))
	{
		CreateTrigStmt *s = (CreateTrigStmt *) statement;

		if (list_length(s->funcname) < 2 || strcmp(strVal(linitial(s->funcname)), "cozesync") != 0)
			return false;
		copy->skipped_triggers = lappend(copy->skipped_triggers, s->trigname);
		return true;
	}
	if (IsA(statement, CreateExtensionStmt))
		return strcmp(((CreateExtensionStmt *) statement)->extname, "cozesync") == 0;
	if (IsA(statement, AlterTableStmt))
	{
		ListCell   *cell;

		foreach(cell, ((AlterTableStmt *) statement)->cmds)
		{
			AlterTableCmd *cmd = lfirst_node(AlterTableCmd, cell);

			if (cmd->name != NULL && in_list(copy->skipped_triggers, cmd->name))
				return true;
		}
	}
	return false;
}

static bool
has_subcommand(Node *statement, AlterTableType type)
{
	ListCell   *cell;

	if (!IsA(statement, AlterTableStmt))
		return false;
	foreach(cell, ((AlterTableStmt *) statement)->cmds)
		if (lfirst_node(AlterTableCmd, cell)->subtype == type)
			return true;
	return false;
}

/* Does the error only say that there is such a thing already? */
static bool
is_there_already(int code, Node *statement)
{
	switch (code)
	{
		case ERRCODE_DUPLICATE_TABLE:
		case ERRCODE_DUPLICATE_SCHEMA:
		case ERRCODE_DUPLICATE_OBJECT:
		case ERRCODE_DUPLICATE_FUNCTION:
		case ERRCODE_DUPLICATE_COLUMN:
		case ERRCODE_DUPLICATE_ALIAS:
		case ERRCODE_UNIQUE_VIOLATION:
			return true;
		case ERRCODE_INVALID_TABLE_DEFINITION:
			return has_subcommand(statement, AT_AddConstraint);
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			return has_subcommand(statement, AT_AddIdentity);
		case ERRCODE_WRONG_OBJECT_TYPE:
			return has_subcommand(statement, AT_AttachPartition);
		default:
			return false;
	}
}

/* Owners and grantees need not exist here; everything else that is missing is an error. */
static bool
is_about_roles(int code, Node *statement)
{
	return code == ERRCODE_UNDEFINED_OBJECT &&
		(IsA(statement, AlterOwnerStmt) || IsA(statement, GrantStmt) ||
		 IsA(statement, GrantRoleStmt) || IsA(statement, AlterDefaultPrivilegesStmt) ||
		 has_subcommand(statement, AT_ChangeOwner));
}

/*
 * Options of columns are for the planner, or the server's own affair: one that this
 * server does not know, since it is older, is nothing that it could miss.
 */
static bool
is_column_option(int code, Node *statement)
{
	return code == ERRCODE_INVALID_PARAMETER_VALUE && has_subcommand(statement, AT_SetOptions);
}

/* Tell once what is left out, and why. */
static void
note_left_out(SchemaCopy *copy, const char *what, const ErrorData *error)
{
	if (in_list(copy->left_out, error->message))
		return;
	copy->left_out = lappend(copy->left_out, pstrdup(error->message));
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("%s were not taken over: %s", what, error->message)));
}

/* Execute one statement in a subtransaction; returns the error, or NULL. */
static ErrorData *
execute(const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		(void) SPI_execute(sql, false, 0);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

static void
execute_statement(SchemaCopy *copy, const char *text, const RawStmt *raw)
{
	int			size = raw->stmt_len > 0 ? raw->stmt_len : (int) strlen(text + raw->stmt_location);
	char	   *sql = pnstrdup(text + raw->stmt_location, size);
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	if (is_ours(copy, raw->stmt))
		return;
	error = execute(sql);
	if (error == NULL || is_there_already(error->sqlerrcode, raw->stmt))
		return;
	if (is_about_roles(error->sqlerrcode, raw->stmt))
	{
		note_left_out(copy, "ownership or rights", error);
		return;
	}
	if (is_column_option(error->sqlerrcode, raw->stmt))
	{
		note_left_out(copy, "options of columns", error);
		return;
	}
	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg("could not create the schema of the other node here: %s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 errcontext("statement \"%s\"", sql + strspn(sql, " \t\r\n"))));
}

void
coze_join_copy_schema(const char *via, const char *snapshot)
{
	SchemaCopy	copy = {0};
	char	   *text = run_pg_dump(via, snapshot);
	int			nest = NewGUCNestLevel();
	ListCell   *cell;

	/* what is there already is no news */
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	blank_psql_commands(text);
	foreach(cell, raw_parser(text, RAW_PARSE_DEFAULT))
		execute_statement(&copy, text, lfirst_node(RawStmt, cell));
	/* pg_dump's output begins with settings for a session of its own */
	AtEOXact_GUC(false, nest);
}

void
coze_join_take_ddl(CozePeerConnection *peer, bool execute)
{
	CozePeerRows *ddl = coze_peer_query(peer, "SELECT d.ddl_id, d.executed_at, d.role_name, d.settings, d.sql"
										" FROM cozesync.ddl AS d ORDER BY d.executed_at, d.ddl_id", 0, NULL);

	for (int i = 0; i < ddl->nrows; i++)
	{
		const char *const *row = (const char *const *) &ddl->values[i * ddl->ncolumns];

		if (coze_step_fetch("SELECT 1 FROM cozesync.ddl AS d WHERE d.ddl_id = $1::uuid", 1, row)->nrows > 0)
			continue;
		if (execute)
			coze_step_run("SELECT cozesync.run_ddl_row(ROW($1::uuid, $2::timestamptz, $3, $4::jsonb, $5)::cozesync.ddl)",
						  5, row);
		coze_step_run("INSERT INTO cozesync.ddl (ddl_id, executed_at, role_name, settings, sql)"
			" VALUES ($1::uuid, $2::timestamptz, $3, $4::jsonb, $5)", 5, row);
	}
}
