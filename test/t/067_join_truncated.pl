# A table is truncated on the donor between the joiner's snapshot and its copying: to
# every snapshot it is empty, though what came before in the log is still to come.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my ($a) = new_group(nodes => ['a'], schema => q{
    CREATE TABLE first (id int PRIMARY KEY);
    CREATE TABLE second (id int PRIMARY KEY, v text);
    CREATE TABLE third (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE third_1 PARTITION OF third FOR VALUES IN (1);
    CREATE TABLE without_partitions (id int PRIMARY KEY) PARTITION BY LIST (id)});

my @nodes = ($a);
for my $off (0, 1)
{
    my $node = new_node($off ? 'c' : 'b');
    $a->safe_psql('postgres', q{DELETE FROM second; DELETE FROM third;
        INSERT INTO second SELECT g, 'start' FROM generate_series(1, 100) g;
        INSERT INTO third SELECT g, 1 FROM generate_series(1, 100) g});
    debug_rule($node, 'truncated-since', 1) if $off;
    debug_stop($node, 'join-table-done');
    my $join = background($node, sprintf q{CALL cozesync.join_group('%s', '%s', '%s')},
        $node->name, node_dsn($node), node_dsn($a));
    ok(wait_stopped($node, 'join-table-done'), 'the first table is copied');
    $a->safe_psql('postgres', $_)
        for q{UPDATE second SET v = 'changed' WHERE id = 1}, 'TRUNCATE second', q{INSERT INTO second VALUES (1, 'new')},
        q{DELETE FROM third WHERE id = 1}, 'TRUNCATE third';
    debug_go($node, 'join-table-done');
    my ($status, $out, $err) = $join->finish;
    is($status, 0, 'joined') or diag($err);
    push @nodes, $node;
    ok(wait_quiet(@nodes), 'in sync');
    my $signs = $node->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflict');
    if ($off)
    {
        cmp_ok($signs, '>', 0, 'truncated after the snapshot: breaks without the rule truncated-since');
    }
    else
    {
        is($signs, 0, 'truncated after the snapshot: holds');
        same_rows(\@nodes, [qw(first second third)]);
    }
}

done_testing();
