# Same set, same rows: nodes that were written to at random, apart from each
# other and together, end the same, round after round.
#
# Each round all nodes run random transactions (inserts, updates, deletes, key
# changes, swaps, savepoints, moves between partitions, now and then a TRUNCATE) on few
# keys and few unique values, so that nearly everything conflicts; in some rounds
# the links are paused meanwhile.  Then all tables are compared and, of tables with a
# second unique key, the conflict logs, which are functions of the set, too; of the
# others the losers.
#
# SEED and ROUNDS in the environment replay a run or make it longer; NODES is 2 or 3.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my $seed = $ENV{SEED} || (time ^ $$);
my $rounds = $ENV{ROUNDS} || 12;
my $nodes = $ENV{NODES} || 2;
note "SEED=$seed ROUNDS=$rounds NODES=$nodes";
srand($seed);

my @tables = qw(plain parted one_unique two_unique);
my @nodes = new_group(
    nodes => [ (qw(a b c))[ 0 .. $nodes - 1 ] ],
    schema => q{
        CREATE TABLE plain (id int PRIMARY KEY, v text);
        CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (5);
        CREATE TABLE parted_high (v text, id int NOT NULL);
        ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (5) TO (100);
        CREATE TABLE one_unique (id int PRIMARY KEY, u text UNIQUE, v text);
        CREATE TABLE two_unique (id int PRIMARY KEY, x int, y int, w int, v text, UNIQUE (x, y));
        CREATE UNIQUE INDEX ON two_unique (w) WHERE w > 0;
    });
my $a = $nodes[0];

sub pick { return $_[ rand @_ ] }
sub id { return 1 + int rand 8 }
sub letter { return pick(qw('p' 'q' 'r' 's' NULL)) }

my $counter = 0;

# One statement on a table; what it may break it breaks by an error, which the
# transaction survives.
sub statement
{
    my ($node) = @_;
    my $v = "'" . $node->name . ++$counter . "'";
    my $id = id();
    return pick(
        "INSERT INTO plain VALUES ($id, $v)",
        "UPDATE plain SET v = $v WHERE id = $id",
        "UPDATE plain SET v = $v WHERE id = $id",
        "UPDATE plain SET id = " . id() . " WHERE id = $id",
        "DELETE FROM plain WHERE id = $id",
        "INSERT INTO parted VALUES ($id, $v)",
        "UPDATE parted SET v = $v WHERE id = $id",
        "UPDATE parted SET id = " . id() . ", v = $v WHERE id = $id",
        "DELETE FROM parted WHERE id = $id",
        (map { "INSERT INTO one_unique VALUES ($id, " . letter() . ", $v)" } 1 .. 3),
        (map { "UPDATE one_unique SET u = " . letter() . ", v = $v WHERE id = $id" } 1 .. 3),
        "UPDATE one_unique SET v = $v WHERE id = $id",
        "UPDATE one_unique SET id = " . id() . " WHERE id = $id",
        "DELETE FROM one_unique WHERE id = $id",
        (map { "INSERT INTO two_unique VALUES ($id, " . int(rand 3) . ', ' . int(rand 2) . ', ' . int(rand 4) . ", $v)" } 1 .. 3),
        "UPDATE two_unique SET x = " . int(rand 3) . ", v = $v WHERE id = $id",
        "UPDATE two_unique SET w = " . int(rand 4) . ", v = $v WHERE id = $id",
        "UPDATE two_unique SET v = $v WHERE id = $id",
        "DELETE FROM two_unique WHERE id = $id");
}

sub transaction
{
    my ($node) = @_;
    my $dice = rand;
    return "BEGIN; TRUNCATE " . pick(@tables) . ";\n" . statement($node) . ";\nCOMMIT;\n" if $dice < 0.01;
    if ($dice < 0.04)
    {
        # two rows swap their values by way of a third one
        my ($i, $j) = (id(), id());
        return "BEGIN; CREATE TEMP TABLE s ON COMMIT DROP AS SELECT id, u FROM one_unique WHERE id IN ($i, $j);\n"
            . "UPDATE one_unique SET u = NULL WHERE id IN (SELECT id FROM s);\n"
            . "UPDATE one_unique o SET u = (SELECT s.u FROM s WHERE s.id <> o.id) WHERE id IN ($i, $j)"
            . " AND 2 = (SELECT count(*) FROM s);\nCOMMIT;\n";
    }
    my @list = map { statement($node) . ";\n" } 1 .. pick(1, 1, 1, 2, 3, 4);
    return $list[0] if @list == 1;
    splice @list, 1, 0, "SAVEPOINT x;\n", statement($node) . ";\n", "ROLLBACK TO x;\n" if rand() < 0.3;
    return join '', "BEGIN;\n", @list, "COMMIT;\n";
}

# psql goes on after an error; inside a transaction each statement has a savepoint.
sub work
{
    my ($node, $n) = @_;
    return background($node, join('', "\\set ON_ERROR_STOP off\n\\set ON_ERROR_ROLLBACK on\n",
        map { transaction($node) } 1 .. $n));
}

# The losers of tables whose rows are folded, and where each was decided.
sub folded_conflicts
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{
        SELECT c.table_name, c.key, c.conflict_type, c.loser_hlc, c.loser_origin, c.decided_hlc, c.decided_origin
          FROM cozesync.conflict c WHERE c.table_name LIKE '%unique' AND c.conflict_type NOT LIKE '%missing'
         ORDER BY 1, c.key::text COLLATE "C", 3, 4, 5, 6, 7});
}

# The losers of the other tables, each once.
sub plain_losers
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{
        SELECT c.table_name, c.key, c.loser_hlc, c.loser_origin
          FROM cozesync.conflict c WHERE c.table_name IN ('plain', 'parted') AND c.conflict_type NOT LIKE '%missing'
         ORDER BY 1, c.key::text COLLATE "C", 3, 4});
}

# One assertion: a query finds the same on all nodes.
sub same_everywhere
{
    my ($query, $name) = @_;
    my ($first, @others) = map { $query->($_) } @nodes;
    return !grep { !is($_, $first, $name) } @others;
}

for my $round (1 .. $rounds)
{
    my @apart = grep { rand() < 0.6 } @nodes;
    $_->safe_psql('postgres', 'SELECT cozesync.pause()') for @apart;
    my @running = map { work($_, 30 + int rand 60) } @nodes;
    $_->finish for @running;
    $_->safe_psql('postgres', 'SELECT cozesync.resume()') for @apart;
    ok(wait_quiet(@nodes), "round $round: in sync" . (@apart ? ' after a time apart' : '')) or last;
    same_rows(\@nodes, \@tables, "round $round: the same rows") or last;
    same_everywhere(\&folded_conflicts, "round $round: the same conflicts over rows with unique values") or last;
    # among three a loser may stay on record although a later arrival cleared it
    if (@nodes == 2)
    {
        same_everywhere(\&plain_losers, "round $round: the same losers among other rows") or last;
    }
    is(join(',', map { $_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflict
            WHERE conflict_type IN ('update_missing', 'delete_missing') OR reason LIKE 'nothing in the change log%'}) } @nodes),
        join(',', (0) x @nodes), "round $round: no sign of divergence") or last;
}
cmp_ok($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts'), '>', 0, 'there were conflicts');

done_testing();
