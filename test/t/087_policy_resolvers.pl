# What resolvers must not be able to do, and what becomes of those that fail: they run with the
# rights of the table's owner and no more, each call finds the same settings, an error holds the
# conflict and says why, and one that does not return can be interrupted.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('resolvers', qw(a b));
sql('a', 'CREATE ROLE owns LOGIN; CREATE ROLE bystander');

my $ddl = q{
    CREATE TABLE secret (v text);
    INSERT INTO secret VALUES ('hidden');
    CREATE TABLE stuck (v text);
    GRANT SELECT ON stuck TO owns;
    CREATE TABLE t (id int PRIMARY KEY, v text);
    ALTER TABLE t OWNER TO owns;
    CREATE FUNCTION resolve_t(earlier t, later t, base t, conflict_type text) RETURNS t
    LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        r public.t := later;
        n int;
    BEGIN
        CASE later.v
            WHEN 'who' THEN r.v := current_user;
            WHEN 'settings' THEN
                r.v := current_setting('search_path') || ' ' || current_setting('DateStyle') || ' ' || current_setting('statement_timeout');
                PERFORM set_config('search_path', 'public', false), set_config('DateStyle', 'SQL, DMY', false);
            WHEN 'role' THEN PERFORM set_config('role', 'bystander', false);
            WHEN 'session' THEN PERFORM set_config('session_authorization', 'bystander', false);
            WHEN 'replication' THEN PERFORM set_config('session_replication_role', 'origin', false);
            WHEN 'secret' THEN SELECT s.v INTO r.v FROM public.secret s;
            WHEN 'dml' THEN INSERT INTO public.t VALUES (-1, 'planted');
            WHEN 'ddl' THEN CREATE TABLE public.planted ();
            WHEN 'temporary' THEN CREATE TEMPORARY TABLE planted ();
            WHEN 'listen' THEN LISTEN planted;
            WHEN 'commit' THEN COMMIT;
            WHEN 'divide' THEN n := 1 / (later.id - later.id);
            WHEN 'key' THEN r.id := later.id + 1000;
            WHEN 'nothing' THEN RETURN NULL;
            WHEN 'delete' THEN r.id := NULL;
            WHEN 'stuck' THEN
                SELECT count(*) INTO n FROM public.stuck;
                WHILE n > 0 LOOP NULL; END LOOP;
                r.v := 'free';
            ELSE r.v := earlier.v || '+' || later.v;
        END CASE;
        RETURN r;
    END $$};
everywhere('t', $ddl);
sql('a', q{SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'public.resolve_t(t, t, t, text)')});
ok(carry_all(), 'a resolver that does all sorts of things');

# Of each kind two rows, so that the second call comes after the first.
my @kinds = (
    [ 'who', 'owns merged', 'runs with the rights of the owner of the table' ],
    [ 'settings', 'pg_catalog, pg_temp ISO, YMD 0 merged', 'under pinned settings, whatever another call has set' ],
    [ 'role', 'x held resolver failed: cannot set parameter "role" within security-restricted operation', 'cannot become another role' ],
    [ 'session', 'x held resolver failed: cannot set parameter "session_authorization" within security-restricted operation',
        'nor another session user' ],
    [ 'replication', 'x held resolver failed: permission denied to set parameter "session_replication_role"', 'nor have its work captured' ],
    [ 'secret', 'x held resolver failed: permission denied for table secret', 'cannot read what its owner may not' ],
    [ 'dml', 'x held resolver failed: INSERT is not allowed in a non-volatile function', 'cannot write' ],
    [ 'ddl', qr/^x held resolver failed: /, 'cannot make tables' ],
    [ 'temporary', qr/^x held resolver failed: /, 'nor temporary ones' ],
    [ 'listen', qr/^x held resolver failed: /, 'nor listen' ],
    [ 'commit', qr/^x held resolver failed: /, 'nor commit' ],
    [ 'divide', 'x held resolver failed: division by zero', 'an error holds the conflict and says why' ],
    [ 'key', 'x held the resolver returned a row with another key', 'so does a row with another key' ],
    [ 'nothing', 'x held', 'and NULL' ],
    [ 'delete', 'merged', 'a row without a key deletes' ],
    [ 'y', 'x+y merged', 'and after all that it still resolves' ],
);
my $id = 2 * @kinds;
my $both = "generate_series(1, $id)";
sql('a', "INSERT INTO t SELECT i, 'o' FROM $both i");
carry_all();
sql('a', 'UPDATE t SET v = \'x\'');
sql('b', join '', map { my $k = $_; map { "UPDATE t SET v = '$kinds[$k][0]' WHERE id = $_;\n" } 2 * $k + 1, 2 * $k + 2 } 0 .. $#kinds);
ok(carry_all(), 'of all that it does nothing stops the stream');

sub what_became
{
    my ($id) = @_;
    return map { sql($_, "SELECT concat_ws(' ', (SELECT v FROM t WHERE id = $id), outcome, reason)
        FROM cozesync.conflict WHERE table_name = 't' AND key = '{\"id\": $id}'") } qw(a b);
}

for my $k (0 .. $#kinds)
{
    my ($kind, $expected, $what) = @{ $kinds[$k] };
    my @became = map { what_became($_) } 2 * $k + 1, 2 * $k + 2;
    ref $expected ? like($became[0], $expected, $what) : is($became[0], $expected, $what);
    is(join(' | ', @became[ 1 .. 3 ]), join(' | ', ($became[0]) x 3), "$kind: the same on both nodes, and in the second call");
}
is(sql($_, 'SELECT count(*) FROM t WHERE id < 0'), 0, "nothing is planted on $_") for qw(a b);

# One that does not return.
$id++;
sql('a', "INSERT INTO t VALUES ($id, 'o')");
carry_all();
sql('a', "INSERT INTO stuck VALUES ('x'); UPDATE t SET v = 'x' WHERE id = $id");
sql('b', "UPDATE t SET v = 'stuck' WHERE id = $id");
my $upto = carry_no_wait('b', 'a');
my $applier = q{SELECT pid FROM pg_stat_activity WHERE datname = 'a' AND backend_type = 'cozesync applier'};
ok(poll_until($server, q{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity s USING (pid)
        WHERE s.datname = 'a' AND s.backend_type = 'cozesync applier' AND l.relation = 'stuck'::regclass)}, 't', 'a'), 'a resolver that does not return');
sql('a', "INSERT INTO t VALUES (5000, 'meanwhile')");
is(sql('a', 'SELECT v FROM t WHERE id = 5000'), 'meanwhile', 'stops nobody who writes');
my $pid = sql('a', $applier);
sql('a', "DELETE FROM stuck; SELECT pg_terminate_backend($pid)");
ok(poll_until($server, "SELECT EXISTS ($applier AND pid <> $pid)", 't', 'a'), 'can be interrupted');
carry_no_wait('b', 'a');
ok(wait_applied('a', 'b', $upto), 'and what it was called for is applied');
carry_all();
is(join(' | ', what_became($id)), 'free merged | free merged', 'on all nodes alike');

done_testing();
