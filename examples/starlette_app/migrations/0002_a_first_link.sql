INSERT INTO links (code, target) VALUES ('pg', 'https://www.postgresql.org');
