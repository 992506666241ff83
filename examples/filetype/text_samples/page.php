<?php
declare(strict_types=1);

namespace Tides;

final class Station
{
    public function __construct(private int $id, private string $name) {}

    public static function find(\PDO $database, int $id): ?self
    {
        $statement = $database->prepare('SELECT id, name FROM station WHERE id = :id');
        $statement->execute(['id' => $id]);
        $row = $statement->fetch(\PDO::FETCH_ASSOC);
        return $row === false ? null : new self((int) $row['id'], $row['name']);
    }

    public function __toString(): string
    {
        return htmlspecialchars($this->name);
    }
}

$station = Station::find(new \PDO($_ENV['DATABASE_URL']), (int) ($_GET['id'] ?? 11));
?>
<h1><?= $station ?? 'unknown station' ?></h1>
