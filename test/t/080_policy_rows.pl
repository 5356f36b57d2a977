# Every row policy on two nodes: two writes that had not seen each other, in both orders of
# arrival, end in the same row and the same conflict on both nodes.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use ApplyTest;
use Test::More;

apply_server('policies', qw(a b));

my %policies = (
    lww => q{'last_update_wins'},
    fuw => q{'first_update_wins'},
    high => q{'highest_version', version_column => 'version'},
    ordered => q{'node_order', node_order => ARRAY['b', 'a']},
    merged => q{'merge'},
    resolved => q{'resolver', resolver => 'public.resolve_it(resolved, resolved, resolved, text)'},
    held => q{'hold'},
);
my $columns = 'id int PRIMARY KEY, version int NOT NULL DEFAULT 0, x text, y text';
for my $table (sort keys %policies)
{
    everywhere($table, "CREATE TABLE $table ($columns)" . ($table ne 'resolved' ? '' : q{;
        CREATE FUNCTION resolve_it(earlier resolved, later resolved, base resolved, conflict_type text) RETURNS resolved
        LANGUAGE plpgsql IMMUTABLE AS $$
        DECLARE
            r public.resolved := later;
        BEGIN
            IF later IS NULL OR earlier IS NULL THEN RETURN NULL; END IF;
            IF later.x = 'fail' THEN RAISE EXCEPTION 'no idea'; END IF;
            IF later.x = 'gone' THEN r.id := NULL; RETURN r; END IF;
            r.x := earlier.x || '+' || later.x || '(' || coalesce(base.x, 'none') || ',' || conflict_type || ')';
            RETURN r;
        END $$}));
    sql('a', "SELECT cozesync.set_conflict_policy('$table', $policies{$table})");
}
ok(carry_all(), 'policies travel');
is(sql('b', 'SELECT count(*) FROM cozesync.policies'), 7, 'and are in force on the other node');
is(sql('b', "SELECT policy FROM cozesync.tables WHERE relation = 'held'::regclass"), 'hold', 'as cozesync.tables says');

# What the nodes do without having seen each other: the first is earlier.  In what order
# it arrives matters to nobody: both nodes get the other's entry.
my $number = 0;
sub conflict
{
    my ($table, $before, $first, $second) = @_;
    my $id = ++$number;
    s/ID/$id/g for $before, $first, $second;
    sql('a', $before) if $before;
    carry_all();
    sql('a', $first);
    sql('b', $second);
    carry('b', 'a');
    carry('a', 'b');
    my @rows = map { sql($_, "SELECT concat_ws(' ', version, x, y) FROM $table WHERE id = $id") } qw(a b);
    my @logs = map { sql($_, "SELECT string_agg(concat_ws(' ', conflict_type, policy,
        CASE WHEN outcome IN ('kept local', 'took remote') THEN CASE WHEN (outcome = 'kept local') = (local_hlc < remote_hlc)
        THEN 'earlier' ELSE 'later' END ELSE outcome END, base_row ->> 'x', reason), ',')
        FROM cozesync.conflicts WHERE relation = '$table'::regclass AND key = '{\"id\": $id}'") } qw(a b);
    return "$rows[0]|$logs[0]" if "@rows" eq "$rows[0] $rows[0]" && "@logs" eq "$logs[0] $logs[0]";
    return "a: $rows[0] $logs[0] b: $rows[1] $logs[1]";
}

sub updates
{
    my ($table) = @_;
    return conflict($table, "INSERT INTO $table VALUES (ID, 1, 'x0', 'y0')",
        "UPDATE $table SET x = 'x1', version = 3 WHERE id = ID", "UPDATE $table SET x = 'x2', y = 'y2', version = 2 WHERE id = ID");
}

sub inserts
{
    my ($table) = @_;
    return conflict($table, '', "INSERT INTO $table VALUES (ID, 2, 'x1', 'y1')", "INSERT INTO $table VALUES (ID, 2, 'x2', 'y2')");
}

sub update_deleted
{
    my ($table) = @_;
    return conflict($table, "INSERT INTO $table VALUES (ID, 1, 'x0', 'y0')",
        "DELETE FROM $table WHERE id = ID", "UPDATE $table SET x = 'x2', version = 2 WHERE id = ID");
}

sub delete_updated
{
    my ($table) = @_;
    return conflict($table, "INSERT INTO $table VALUES (ID, 1, 'x0', 'y0')",
        "UPDATE $table SET x = 'x1', version = 2 WHERE id = ID", "DELETE FROM $table WHERE id = ID");
}

my %expected = (
    lww => [ '2 x2 y2|update_update last_update_wins later', '2 x2 y2|insert_exists last_update_wins later',
        '2 x2 y0|update_deleted last_update_wins later', '|delete_updated last_update_wins later' ],
    fuw => [ '3 x1 y0|update_update first_update_wins earlier x0', '2 x1 y1|insert_exists first_update_wins earlier',
        '|update_deleted first_update_wins earlier x0', '2 x1 y0|delete_updated first_update_wins earlier x0' ],
    high => [ '3 x1 y0|update_update highest_version earlier x0', '2 x2 y2|insert_exists highest_version later',
        '2 x2 y0|update_deleted highest_version later x0', '2 x1 y0|delete_updated highest_version earlier x0' ],
    ordered => [ '2 x2 y2|update_update node_order later x0', '2 x2 y2|insert_exists node_order later',
        '2 x2 y0|update_deleted node_order later x0', '|delete_updated node_order later x0' ],
    merged => [ '2 x2 y2|update_update merge merged x0 both changed columns version, x',
        '2 x2 y2|insert_exists merge merged both changed columns x, y',
        '2 x2 y0|update_deleted merge later x0', '|delete_updated merge later x0' ],
    resolved => [ '2 x1+x2(x0,update_update) y2|update_update resolver merged x0',
        '2 x1+x2(none,insert_exists) y2|insert_exists resolver merged',
        '|update_deleted resolver held x0', '2 x1 y0|delete_updated resolver held x0' ],
    held => [ '3 x1 y0|update_update hold held x0', '2 x1 y1|insert_exists hold held',
        '|update_deleted hold held x0', '2 x1 y0|delete_updated hold held x0' ],
);
for my $table (sort keys %expected)
{
    is(updates($table), $expected{$table}[0], "$table: two updates");
    is(inserts($table), $expected{$table}[1], "$table: two inserts");
    is(update_deleted($table), $expected{$table}[2], "$table: an update after a deletion");
    is(delete_updated($table), $expected{$table}[3], "$table: a deletion after an update");
}

is(conflict('resolved', "INSERT INTO resolved VALUES (ID, 1, 'x0')", "UPDATE resolved SET x = 'x1' WHERE id = ID",
    "UPDATE resolved SET x = 'fail' WHERE id = ID"), '1 x1|update_update resolver held x0 resolver failed: no idea',
    'an error in a resolver holds the conflict and says why');
is(conflict('resolved', "INSERT INTO resolved VALUES (ID, 1, 'x0')", "UPDATE resolved SET x = 'x1' WHERE id = ID",
    "UPDATE resolved SET x = 'gone' WHERE id = ID"), '|update_update resolver merged x0', 'a row without key deletes');

done_testing();
