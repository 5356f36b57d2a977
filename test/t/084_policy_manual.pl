# The examples of doc/conflicts.md run as they stand and show what it says.
#
# Blocks of SQL say in their first line where they run; a block of text after one is what psql
# shows.  Writes "at the same time" are made while the nodes hear nothing of each other.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my %node;
@node{qw(berlin tokyo)} = new_group(nodes => [qw(berlin tokyo)], schema => 'CREATE TABLE first (id int PRIMARY KEY)');
my @nodes = @node{qw(berlin tokyo)};

open my $manual, '<', "$FindBin::RealBin/../../doc/conflicts.md" or die "no manual: $!";
my $text = join '', <$manual>;
my @blocks;
while ($text =~ /^```(sql|text)\n(.*?)^```$/msg)
{
    push @blocks, { kind => $1, text => $2 };
}
cmp_ok(scalar(@blocks), '>', 40, 'the manual has examples');

# As psql shows it to a person.
sub show
{
    my ($node, $sql) = @_;
    my ($out, $err) = ('', '');
    IPC::Run::run([ $node->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
        '<', \$sql, '>', \$out, '2>', \$err);
    $out =~ s/\n+\z/\n/;
    return $err ne '' && $err !~ /^NOTICE/ ? "error: $err" : $out;
}

my ($apart, $listener, $told) = (0, undef, undef);
my $shown;
for my $i (0 .. $#blocks)
{
    my ($kind, $block) = @{ $blocks[$i] }{qw(kind text)};
    if ($kind eq 'text')
    {
        is($shown, $block, "the manual shows what comes of: " . (split /\n/, $blocks[ $i - 1 ]{text})[1]);
        next;
    }
    my ($where) = $block =~ /^-- on (.*)\n/ or die "where does this run?\n$block";
    my $same_time = $where =~ s/, at the same time$//;
    my $listens = $where =~ s/, listening$//;
    if ($same_time && !$apart)
    {
        wait_quiet(@nodes);
        $_->safe_psql('postgres', 'SELECT cozesync.pause()') for @nodes;
    }
    elsif (!$same_time)
    {
        $_->safe_psql('postgres', 'SELECT cozesync.resume()') for $apart ? @nodes : ();
        wait_quiet(@nodes) or fail('in sync');
    }
    $apart = $same_time;
    if ($listens)
    {
        # until a conflict is made for it, below
        $told = background($node{$where}, "$block;\nDO \$\$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM pg_sleep(0.1);"
            . " EXIT WHEN EXISTS (SELECT FROM cozesync.conflict WHERE key = '{\"id\": 77}'); END LOOP; END \$\$;\nSELECT pg_sleep(2);\n");
        next;
    }
    my @where = $where =~ /^(both|every node)$/ ? @nodes : ($node{$where});
    my @shown = map { show($_, $block) } @where;
    $shown = $shown[0];
    unlike($_, qr/^error/, 'runs: ' . (split /\n/, $block)[1]) for @shown;
    is($shown[1], $shown[0], 'the same on both') if $where eq 'both';
}

# One more held conflict for who listens.
$node{berlin}->safe_psql('postgres', q{INSERT INTO contracts VALUES (77, 'o')});
wait_quiet(@nodes);
$_->safe_psql('postgres', 'SELECT cozesync.pause()') for @nodes;
$node{$_}->safe_psql('postgres', "UPDATE contracts SET terms = '$_' WHERE id = 77") for qw(berlin tokyo);
$_->safe_psql('postgres', 'SELECT cozesync.resume()') for @nodes;
my (undef, $out) = $told->finish;
like($out, qr/"relation": "public.contracts", "key": \{"id": 77\}, "conflict_type": "update_update", "outcome": "held"\}/,
    'who listens is told');

done_testing();
